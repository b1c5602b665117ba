#!/usr/bin/env python3
"""Writes the SBOM (CycloneDX) of a release binary to stdout: sbom.py <binary> <platform>, in the package's folder.

cargo-cyclonedx lists what Cargo.lock has for a platform. Crates that only features switch on which are off are taken
out, so that nobody looks for flaws in what is not there; the digest of the binary and what it was built with are
put in, and the build folder is taken out.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

binary, platform = sys.argv[1:]
name = os.path.basename(binary)


def told(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def cargo(*arguments):
    return told("cargo", *arguments)


written = pathlib.Path(f"{name}_bin.cdx.json")
try:
    cargo("cyclonedx", "--quiet", "--format=json", "--spec-version=1.5", "--describe=binaries", f"--target={platform}")
    sbom = written.read_text()
finally:
    written.unlink(missing_ok=True)
sbom = json.loads(sbom.replace(f"path+file://{os.getcwd()}#", "path+file:///plugin#"))

tree = cargo("tree", "--locked", "--edges=normal,build", f"--target={platform}", "--prefix=none", "--format={p}")
built = {tuple(line.split()[:2]) for line in tree.splitlines()}
kept = [part for part in sbom["components"] if (part["name"], "v" + part["version"]) in built]
refs = {part["bom-ref"] for part in kept} | {sbom["metadata"]["component"]["bom-ref"]}
if len(refs) != len(built):
    sys.exit(f"sbom: {len(built)} crates are built, {len(refs)} are listed")
sbom["components"] = kept
sbom["dependencies"] = [
    {**node, "dependsOn": [ref for ref in node["dependsOn"] if ref in refs]} if "dependsOn" in node else node
    for node in sbom["dependencies"]
    if node["ref"] in refs
]
digest = hashlib.sha256(pathlib.Path(binary).read_bytes()).hexdigest()
sbom["metadata"]["component"]["hashes"] = [{"alg": "SHA-256", "content": digest}]
# Who wants the same bytes needs the same compilers, of which one is for aws-lc, and the same C library.
sbom["metadata"]["properties"] += [
    {"name": "built:rustc", "value": told("rustc", "--version").strip()},
    {"name": "built:cc", "value": told(os.environ.get("CC", "cc"), "--version").splitlines()[0]},
    {"name": "built:libc", "value": told("getconf", "GNU_LIBC_VERSION").strip()},
]
json.dump(sbom, sys.stdout, indent=2)
print()
