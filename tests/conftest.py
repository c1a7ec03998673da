"""What holds for every test: nothing asks the Hugging Face Hub, and a busy machine is no failure."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("posttrain", deadline=None)
settings.load_profile("posttrain")
