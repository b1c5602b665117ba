#!/usr/bin/env python3
"""Writes the SBOM (CycloneDX) of a release binary to stdout: sbom.py <binary> <platform>, in the folder of the package.

cargo-cyclonedx lists all crates in Cargo.lock for a platform. This script removes the crates that only disabled features
need, because a vulnerability in them does not affect the binary. It adds the digest of the binary and the versions of
the compilers, and removes the path of the build folder.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

binary, platform = sys.argv[1:]
name = os.path.basename(binary)


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def cargo(*arguments):
    return output("cargo", *arguments)


written = pathlib.Path(f"{name}_bin.cdx.json")
try:
    cargo("cyclonedx", "--quiet", "--format=json", "--spec-version=1.5", "--describe=binaries", f"--target={platform}")
    sbom = written.read_text()
finally:
    # It writes one file for each package of the workspace.
    for file in (*pathlib.Path().glob("*.cdx.json"), *pathlib.Path("sdk").glob("*.cdx.json")):
        file.unlink()
sbom = json.loads(sbom.replace(f"path+file://{os.getcwd()}#", "path+file:///plugin#"))

tree = cargo("tree", "--locked", f"--package={name}", "--edges=normal,build", f"--target={platform}", "--prefix=none", "--format={p}")
built = {tuple(line.split()[:2]) for line in tree.splitlines()}
kept = [part for part in sbom["components"] if (part["name"], "v" + part["version"]) in built]
refs = {part["bom-ref"] for part in kept} | {sbom["metadata"]["component"]["bom-ref"]}
if len(refs) != len(built):
    sys.exit(f"sbom: {len(built)} crates are built, but {len(refs)} are listed")
sbom["components"] = kept
sbom["dependencies"] = [
    {**node, "dependsOn": [ref for ref in node["dependsOn"] if ref in refs]} if "dependsOn" in node else node
    for node in sbom["dependencies"]
    if node["ref"] in refs
]
digest = hashlib.sha256(pathlib.Path(binary).read_bytes()).hexdigest()
sbom["metadata"]["component"]["hashes"] = [{"alg": "SHA-256", "content": digest}]
# To build the same bytes, you need the same compilers (cc compiles aws-lc) and the same C library.
sbom["metadata"]["properties"] += [
    {"name": "built:rustc", "value": output("rustc", "--version").strip()},
    {"name": "built:cc", "value": output(os.environ.get("CC", "cc"), "--version").splitlines()[0]},
    {"name": "built:libc", "value": output("getconf", "GNU_LIBC_VERSION").strip()},
]
json.dump(sbom, sys.stdout, indent=2)
print()
