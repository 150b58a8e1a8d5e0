"""Takes packages whose installation was interrupted out of pip's memory, so that pip installs them again and keeps the rest.

pip believes in a package from the moment its `.dist-info` folder appears, but writes that folder's final RECORD, which alone
names the INSTALLER, when every file is in place. Prints what it removed.

    python half_installed.py [SITE_PACKAGES]
"""

import shutil
import sys
import sysconfig
from pathlib import Path


def is_whole(package: Path) -> bool:
    """Whether pip finished the package of this `.dist-info` folder, and all its files are still there."""
    record = package / "RECORD"
    if not record.is_file():
        return False
    files = [line.split(",")[0].strip('"') for line in record.read_text().splitlines()]
    # No package of ours has a comma or a quote in a file's name.
    return f"{package.name}/INSTALLER" in files and all((package.parent / file).exists() for file in files)


def main() -> None:
    packages = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("purelib"))
    for package in sorted(packages.glob("*.dist-info")):
        if not is_whole(package):
            print(f"half installed: {package.name}")
            shutil.rmtree(package)


if __name__ == "__main__":
    main()
