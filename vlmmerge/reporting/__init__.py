"""What a search shows: pure functions of its journal."""
