"""Rows of tasks in local files, and tasks over them."""

import io
import json
from pathlib import Path

from datasets import Dataset, Image
from PIL import Image as Pillow

from vlmmerge.tasks import Task, build_tasks


def encoded(image: Pillow.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(colour: int) -> bytes:
    return encoded(Pillow.new("RGB", (8, 8), (colour, 0, 0)))


def write(folder: Path, split: str, rows: list[dict[str, object]], kind: str = "parquet") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{split}.{kind}"
    if kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file
    dataset = Dataset.from_list(rows)
    if "image" in dataset.column_names and kind == "parquet":
        dataset = dataset.cast_column("image", Image())
    dataset.to_parquet(file) if kind == "parquet" else dataset.to_csv(file)
    return file


def task(folder: Path, **changes: object) -> Task:
    node = {
        "dataset": {"path": str(folder)},
        "columns": {"references": "answers"},
        "prompt": "Q: {question}",
        "metric": "exact_match",
        **changes,
    }
    return build_tasks({"mine": node})["mine"]


def rows(first: int, n: int = 3) -> list[dict[str, object]]:
    return [{"question": f"何 {i}?", "answers": [f"a{i}", "b"]} for i in range(first, first + n)]
