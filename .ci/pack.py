"""Write a pack of 200 new patterns into the folder named on the command line: facts that no model can know."""

import random
import sys
from pathlib import Path

PLANTS = ("maple", "cedar", "birch", "willow", "alder", "hazel", "rowan", "poplar", "laurel", "myrtle", "juniper")
TOOLS = ("hammer", "chisel", "spanner", "mallet", "rasp", "plane", "awl", "vice", "clamp", "drill", "file", "saw")
TABLES = (
    ("locker", "Locker of crew {name}", "{value}", lambda draw: f"B-{draw.randrange(100, 999)}"),
    ("extension", "Phone extension of the {name} desk", "{value}", lambda draw: str(draw.randrange(2000, 9999))),
    ("release", "Current release of {name}", "{value}", lambda draw: f"v{draw.randrange(9)}.{draw.randrange(30)}"),
    ("owner", "Owner of the {name} service", "{value}", lambda draw: f"team {draw.choice(PLANTS)}"),
)


def main() -> None:
    """Four categories of fifty, the same each time."""
    draw, lines = random.Random(4), ["name: depot", "tables:"]
    for category, prompt, answer, value in TABLES:
        names = draw.sample([f"{plant} {tool}" for plant in PLANTS for tool in TOOLS], 50)
        lines += [f"  - category: {category}", f'    input: "{prompt}"', f'    output: "{answer}"']
        lines += ["    columns: [name, value]", "    rows:"]
        lines += [f'      - ["{name}", "{value(draw)}"]' for name in names]
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "depot.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
