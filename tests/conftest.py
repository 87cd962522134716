import os

pytest_plugins = ["small_run"]
# no test downloads a model, or finds one that this machine's user had converted
os.environ["PIP_NO_INDEX"] = os.environ["UV_OFFLINE"] = "1"
for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
    os.environ.pop(name, None)
os.environ["ENGRAM_MODELS"] = os.devnull + "/models"
