"""What the authors of benchmarks publish of them: features, splits, a row.

Not from our configs: the features are those of the dataset's card, or of the columns that the
harness named beside it reads, so that a column which we name wrongly is missing here.
"""

import io
from dataclasses import dataclass, field
from typing import Any

from datasets import Image, List, Sequence, Value
from PIL import Image as Pillow

TEXT, WHOLE = Value("string"), Value("int64")
# floschne's tables keep images as {bytes, path: null}, without the type of an image.
STORED = {"bytes": Value("binary"), "path": Value("null")}


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 8), (colour, 40, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def image(colour: int) -> dict[str, object]:
    return {"bytes": png(colour), "path": None}


@dataclass(frozen=True)
class Published:
    """A dataset's features and splits as its `source` says, and what a row must become."""

    source: str
    features: dict[str, Any]
    splits: tuple[str, ...]
    row: Any  # number -> row
    prompt: str  # of row 1, or a part of it
    references: tuple[str, ...]
    tasks: tuple[str, ...] = ()  # those asked, where the config has several
    folder: str = ""  # the config's folder in the repository
    pictures: int = 1
    options: tuple[str, ...] = ()
    dataset: dict[str, Any] = field(default_factory=dict)


PUBLISHED = {
    "ja_vg_vqa_500": Published(
        "llm-jp/llm-jp-eval-mm src/eval_mm/tasks/ja_vg_vqa_500.py; splits: the card's dataset_info",
        {
            "image_id": WHOLE,
            "image": Image(),
            "qas": List({"qa_id": WHOLE, "question": TEXT, "answer": TEXT}),
        },
        ("train", "test"),
        lambda i: {
            "image_id": i,
            "image": image(i),
            "qas": [
                {"qa_id": 10 * i + k, "question": f"{i}の何{k}?", "answer": f"答{i}.{k}"}
                for k in (0, 1)
            ],
        },
        "0の何1?",
        ("答0.1",),
    ),
    "ja_vlm_bench_in_the_wild": Published(
        "llm-jp/llm-jp-eval-mm src/eval_mm/tasks/ja_vlm_bench_in_the_wild.py",
        {"image": Image(), "question": TEXT, "answer": TEXT},
        ("test",),
        lambda i: {"image": image(i), "question": f"何{i}?", "answer": f"鳥居{i}です。"},
        "何1?",
        ("鳥居1です。",),
    ),
    "heron_bench": Published(
        "llm-jp/llm-jp-eval-mm dataset.md (dataset_info) and tasks/japanese_heron_bench.py (text)",
        {
            "question_id": WHOLE,
            "image": Image(),
            "category": TEXT,
            "image_category": TEXT,
            "context": TEXT,
            "text": TEXT,
            "answer": {
                "claude-3-opus-20240229": TEXT,
                "gemini-1.0-pro-vision-latest": TEXT,
                "gpt-4-0125-preview": TEXT,
                "gpt-4-vision-preview": TEXT,
            },
        },
        ("train",),
        lambda i: {
            "question_id": i,
            "image": image(i),
            "category": "conv" if i % 2 else "detail",
            "image_category": "food",
            "context": "文脈",
            "text": f"何{i}?",
            "answer": {
                "claude-3-opus-20240229": "no",
                "gemini-1.0-pro-vision-latest": "no",
                "gpt-4-0125-preview": f"お茶{i}",
                "gpt-4-vision-preview": "no",
            },
        },
        "何1?",
        ("お茶1",),
    ),
    "jmmmu": Published(
        "card of JMMMU/JMMMU-Pro (dataset_info: the same columns); options as a literal:"
        " llm-jp/llm-jp-eval-mm src/eval_mm/tasks/jmmmu.py",
        {
            **dict.fromkeys(("id", "question", "options", "explanation"), TEXT),
            **{f"image_{k}": Image() for k in range(1, 8)},
            **dict.fromkeys(("img_type", "answer", "topic_difficulty", "question_type"), TEXT),
            "subfield": TEXT,
        },
        ("test",),
        lambda i: {
            "id": f"test_{i}",
            "question": f"<image 1>は何{i}?",
            "options": "['鳥居', \"It's\", '城']",
            "explanation": "",
            "image_1": image(i),
            "image_2": image(100 + i),
            **{f"image_{k}": None for k in range(3, 8)},
            "img_type": "['Photographs']",
            "answer": "B",
            "topic_difficulty": "Easy",
            "question_type": "open" if i == 0 else "multiple-choice",
            "subfield": "art",
        },
        "何1?\nA. 鳥居\nB. It's\nC. 城\n",
        ("It's",),
        folder="Biology",
        pictures=2,
        options=("鳥居", "It's", "城"),
        dataset={"name": ["Biology"]},
    ),
    "cvqa": Published(
        "card of afaji/cvqa at 6405642c (dataset_info); options as a list:"
        " card of davidanugraha/cvqa",
        {
            "image": Image(),
            **dict.fromkeys(("ID", "Subset", "Question", "Translated Question"), TEXT),
            "Options": Sequence(TEXT),
            "Translated Options": Sequence(TEXT),
            "Label": WHOLE,
            **dict.fromkeys(("Category", "Image Type", "Image Source", "License"), TEXT),
        },
        ("test",),
        lambda i: {
            "image": image(i),
            "ID": f"id_{i}",
            "Subset": "('Swahili', 'Kenya')" if i == 0 else "('Japanese', 'Japan')",
            "Question": f"何{i}?",
            "Translated Question": "What?",
            "Options": ["神社", "寺", "城", "塔"],
            "Translated Options": ["shrine", "temple", "castle", "tower"],
            "Label": 2,
            "Category": "People",
            "Image Type": "Self",
            "Image Source": "Self",
            "License": "CC",
        },
        "何1?\nA. 神社\nB. 寺\nC. 城\nD. 塔\n",
        ("城",),
        tasks=("cvqa_ja",),
        options=("神社", "寺", "城", "塔"),
    ),
    "stair_captions": Published(
        "card of shunk031/STAIR-Captions at 20bee3d1 (dataset_info)",
        {
            "image_id": WHOLE,
            "image": Image(),
            **dict.fromkeys(("file_name", "coco_url", "date_captured", "flickr_url"), TEXT),
            **dict.fromkeys(("height", "width", "license_id"), Value("int32")),
            "license": {"url": TEXT, "license_id": Value("int8"), "name": TEXT},
            "annotations": Sequence({"annotation_id": WHOLE, "image_id": WHOLE, "caption": TEXT}),
        },
        ("train", "validation"),
        lambda i: {
            "image_id": i,
            "image": image(i),
            **dict.fromkeys(("file_name", "coco_url", "date_captured", "flickr_url"), "x"),
            **dict.fromkeys(("height", "width", "license_id"), 8),
            "license": {"url": "x", "license_id": 1, "name": "x"},
            "annotations": {
                "annotation_id": [0, 1],
                "image_id": [i, i],
                "caption": [f"犬{i}.0", f"犬{i}.1"],
            },
        },
        "この画像を一文で説明してください。",
        ("犬1.0", "犬1.1"),
        folder="v1.2.0",
    ),
    "xm3600": Published(
        "card of floschne/xm3600_1k (dataset_info: a subset of the same table)",
        {
            **dict.fromkeys(("image_id", "image_locale"), TEXT),
            **dict.fromkeys(
                ("captions", "captions_tokenized", "captions_tokenized_lowercase"), Sequence(TEXT)
            ),
            "image": STORED,
        },
        ("ja", "th", "ar", "sw"),
        lambda i: {
            "image_id": f"{i:016x}",
            "image_locale": "ja",
            "captions_tokenized": ["x"],
            "captions_tokenized_lowercase": ["x"],
            "captions": [f"犬{i}", f"白い犬{i}"],
            "image": image(i),
        },
        "",
        ("犬1", "白い犬1"),
        tasks=("xm3600_ja", "xm3600_th", "xm3600_ar", "xm3600_sw"),
    ),
    "maxm": Published(
        "fields of floschne/maxm as an lm-evaluation-harness task of it lists them (question,"
        " answers, processed_answers, image as encoded bytes, language); splits by language",
        {
            **dict.fromkeys(("image_id", "question_id", "question", "language"), TEXT),
            "answers": Sequence(TEXT),
            "processed_answers": Sequence(TEXT),
            "image": STORED,
        },
        ("en", "fr", "hi", "iw", "ro", "th", "zh"),
        lambda i: {
            **dict.fromkeys(("image_id", "question_id"), str(i)),
            "question": f"อะไร{i}",
            "language": "th",
            "answers": ["แมว"],
            "processed_answers": ["แมว", f"แมว{i}"],
            "image": image(i),
        },
        "อะไร1\n",
        ("แมว", "แมว1"),
        tasks=("maxm_th",),
    ),
    "xgqa": Published(
        "card of neulab/PangeaBench-xgqa (dataset_info), which is floschne/xgqa's",
        {**dict.fromkeys(("question", "answer", "full_answer", "image_id"), TEXT), "image": STORED},
        ("bn", "de", "en", "id", "ko", "pt", "ru", "zh"),
        lambda i: {
            "question": f"什么{i}",
            "answer": "yes",
            "full_answer": "Yes, it is.",
            "image_id": f"n{i}",
            "image": image(i),
        },
        "什么1\n",
        ("yes",),
        tasks=("xgqa_zh",),
    ),
    "mgsm_ja": Published(
        "columns of the Japanese table as of the card of proxectonos/mgsm_gl, its translation, and"
        " the viewer of jbross-ibm-research/mgsm (answer_number: int32)",
        {
            **dict.fromkeys(("question", "answer", "equation_solution"), TEXT),
            "answer_number": Value("int32"),
        },
        ("train", "test"),
        lambda i: {
            "question": f"問題:りんごが{i}個あります。",
            "answer": None,
            "equation_solution": None,
            "answer_number": 1000 + i,
        },
        "問題:りんごが1個あります。\n",
        ("1001",),
        folder="ja",
        pictures=0,
    ),
    "jcommonsenseqa": Published(
        "features_jcommonsenseqa of shunk031/JGLUE's script, whose table leemeng's is; the same"
        " columns in a test of a reader of leemeng/jcommonsenseqa-v1.1",
        {
            "q_id": WHOLE,
            **dict.fromkeys(("question", *(f"choice{k}" for k in range(5))), TEXT),
            "label": WHOLE,
        },
        ("train", "validation"),
        lambda i: {
            "q_id": i,
            "question": f"主に子供{i}?",
            **{
                f"choice{k}": word
                for k, word in enumerate(("世界", "写真集", "絵本", "論文", "図鑑"))
            },
            "label": 2,
        },
        "質問: 主に子供1?\n",
        ("絵本",),
        pictures=0,
        options=("世界", "写真集", "絵本", "論文", "図鑑"),
    ),
    "vqav2": Published(
        "card of lmms-lab/VQAv2 at d138befa (dataset_info)",
        {
            **dict.fromkeys(("question_type", "multiple_choice_answer"), TEXT),
            "answers": List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": WHOLE}),
            "image_id": WHOLE,
            "answer_type": TEXT,
            "question_id": WHOLE,
            "question": TEXT,
            "image": Image(),
        },
        ("validation",),
        lambda i: {
            "question_type": "what",
            "multiple_choice_answer": "net",
            "answers": [
                {"answer": "net" if k else "netting", "answer_confidence": "yes", "answer_id": k}
                for k in range(10)
            ],
            "image_id": i,
            "answer_type": "other",
            "question_id": i,
            "question": f"Where is {i}?",
            "image": image(i),
        },
        "Where is 1?\n",
        ("netting", *["net"] * 9),
    ),
    "textvqa": Published(
        "card of pppop7/textvqa, a duplicate of lmms-lab/textvqa (dataset_info)",
        {
            "image_id": TEXT,
            "question_id": Value("int32"),
            "question": TEXT,
            "question_tokens": Sequence(TEXT),
            "image": Image(),
            **dict.fromkeys(("image_width", "image_height"), Value("int32")),
            **dict.fromkeys(("flickr_original_url", "flickr_300k_url", "set_name"), TEXT),
            **dict.fromkeys(("answers", "image_classes", "ocr_tokens"), Sequence(TEXT)),
        },
        ("train", "validation", "test"),
        lambda i: {
            "image_id": str(i),
            "question_id": i,
            "question": f"what does {i} say?",
            "question_tokens": ["what"],
            "image": image(i),
            **dict.fromkeys(("image_width", "image_height"), 8),
            **dict.fromkeys(("flickr_original_url", "flickr_300k_url", "set_name"), "x"),
            "answers": ["nokia"] * 9 + [""],
            "image_classes": ["x"],
            "ocr_tokens": ["x"],
        },
        "what does 1 say?\n",
        (*["nokia"] * 9, ""),
    ),
    "docvqa": Published(
        "card of lmms-lab/DocVQA at 59fed3cd (dataset_info)",
        {
            **dict.fromkeys(("questionId", "question"), TEXT),
            "question_types": Sequence(TEXT),
            "image": Image(),
            "docId": WHOLE,
            **dict.fromkeys(("ucsf_document_id", "ucsf_document_page_no"), TEXT),
            "answers": Sequence(TEXT),
            "data_split": TEXT,
        },
        ("train", "validation", "test"),
        lambda i: {
            "questionId": str(i),
            "question": f"Which page is {i}?",
            "question_types": ["layout"],
            "image": image(i),
            "docId": i,
            **dict.fromkeys(("ucsf_document_id", "ucsf_document_page_no"), "1"),
            "answers": ["University", "university"],
            "data_split": "val",
        },
        "Which page is 1?\n",
        ("University", "university"),
        folder="DocVQA",
    ),
    "chartqa": Published(
        "EvolvingLMMs-Lab/lmms-eval lmms_eval/tasks/chartqa/utils.py (type, question, answer,"
        " image)",
        {"type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()},
        ("test",),
        lambda i: {
            "type": "human_test" if i % 2 else "augmented_test",
            "question": f"How many in {i}?",
            "answer": "14",
            "image": image(i),
        },
        "How many in 1?\n",
        ("14",),
    ),
    "coco_captions": Published(
        "EvolvingLMMs-Lab/lmms-eval lmms_eval/tasks/coco_cap/utils.py (question_id: the file's"
        " name, answer: the captions, id, image)",
        {
            "question_id": TEXT,
            "image": Image(),
            "question": TEXT,
            "answer": Sequence(TEXT),
            "id": WHOLE,
        },
        ("val", "test"),
        lambda i: {
            "question_id": f"COCO_val2014_{i:012d}.jpg",
            "image": image(i),
            "question": "Please carefully observe the image",
            "answer": ["a dog", f"one dog {i}"],
            "id": i,
        },
        "Provide a one-sentence caption for the provided image.",
        ("a dog", "one dog 1"),
    ),
}
