"""One story per paper, told with the rooms below."""
