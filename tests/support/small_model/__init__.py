"""The first mini model, 64 x 64 pixels: kept as a fast small checkpoint for tests."""

# From the repository's root, as configs give paths.
FOLDER = "tests/support/small_model"
SAMPLE = f"{FOLDER}/sample.py"
ADACACHE = f"{FOLDER}/sample_adacache.py"
MOREG = f"{FOLDER}/sample_adacache_moreg.py"
CALIBRATED = f"{FOLDER}/sample_calibrated.py"
