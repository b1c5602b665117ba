#!/usr/bin/env python3
"""Prints the licences of the crates that are linked into the binary: licenses.py list|texts <platform>.

"list" prints one line per crate: name, version and licence. packaging/licenses.txt keeps this list, and a test compares the
two. "texts" prints the file THIRD_PARTY_LICENSES of a release: the list, and each licence text once with its crates. The
script fails if a crate comes without the text of its licence.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULE = "-" * 100
HEAD = """\
The binary vault-plugin-secrets-datastax-astra contains the crates below (see NOTICE). The list names each crate, its version
and its licence. The licence texts follow.
"""

# These crates leave out the text of their licence. The other crate is of the same project and version and has the text.
TEXT_OF = {"tonic-prost": "tonic"}
PLUGIN = "vault-plugin-secrets-datastax-astra"
PREFIXES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def cargo(*arguments):
    command = ("cargo", *arguments)
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def linked(platform):
    """Returns the packages that are linked on a platform, sorted, and all packages by name and version.

    Build scripts, procedural macros and tests are not linked.
    """
    tree = cargo("tree", "--locked", f"--package={PLUGIN}", "--edges=normal,no-proc-macro", f"--target={platform}", "--prefix=none", "--format={p}")
    metadata = json.loads(cargo("metadata", "--locked", "--format-version=1", f"--filter-platform={platform}"))
    packages = {(package["name"], package["version"]): package for package in metadata["packages"]}
    # The first line is this package. A crate with several parents has several lines. The tree has a v before each version.
    names = {tuple(line.split()[:2]) for line in tree.splitlines()[1:]}
    linked = [packages[name, version[1:]] for name, version in sorted(names)]
    # Packages without a source are of this repository.
    return [package for package in linked if package["source"]], packages


def files(package):
    """Returns the names and texts of a package's files with licences and notices."""
    folder = pathlib.Path(package["manifest_path"]).parent
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(PREFIXES):
            # Some copies of a text differ in line ends and trailing blanks only.
            lines = (line.rstrip() for line in path.read_text(encoding="utf-8").split("\n"))
            found[path.name] = "\n".join(lines).strip("\n")
    return found


def texts(package, packages):
    """Returns the texts that go with a package. If its licences are a choice, that is the Apache License 2.0 if possible."""
    name, licence = package["name"], package["license"]
    found = files(package)
    if name in TEXT_OF:
        if found:
            sys.exit(f'licenses: "{name}" now has a text: remove it from TEXT_OF')
        found = files(packages[TEXT_OF[name], package["version"]])
    is_choice = "AND" not in licence and "Apache-2.0" in licence
    if is_choice and any("APACHE" in file.upper() for file in found):
        found = {
            file: text
            for file, text in found.items()
            if "APACHE" in file.upper() or not file.upper().startswith("LICEN")
        }
    # Other crates bring the text of the Apache License 2.0.
    if not found and not is_choice:
        sys.exit(f'licenses: "{name}" ({licence}) comes without the text of its licence')
    return found.values()


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("list", "texts"):
        sys.exit("usage: licenses.py list|texts <platform>")
    # The bytes do not depend on the locale.
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    what, platform = sys.argv[1:]
    crates, packages = linked(platform)
    lines = [f"{package['name']} {package['version']}: {package['license']}" for package in crates]
    if what == "list":
        print("\n".join(lines))
        return
    users = {}
    for package in crates:
        for text in texts(package, packages):
            users.setdefault(text, []).append(f"{package['name']} {package['version']}")
    print(HEAD, *lines, sep="\n")
    for text, names in users.items():
        print(f"\n{RULE}\n{', '.join(names)}\n{RULE}\n\n{text}")


main()
