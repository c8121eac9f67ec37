"""A dialogue, and the row that it is read as."""

PROMPT = "\n\nHuman: Hi\n\nAssistant: Hm\n\nHuman: So?\n\nAssistant:"


DIALOGUE = {"chosen": f"{PROMPT} Yes, yes", "rejected": f"{PROMPT} Yes, no"}


ROW = {"prompt": "a", "chosen": " b", "rejected": " c", "margin": 0.5}
