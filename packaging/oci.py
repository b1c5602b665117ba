#!/usr/bin/env python3
"""Makes an OCI image of the plugin from release archives: oci.py <folder with the archives> <new folder>.

OpenBao downloads plugins from such an image. The image has the binary in its root, the licences, and nothing else. The output is
an OCI image layout: one image for each platform, and an index that names them. The tag is the version of the plugin with a "v".
Times, owners and orders are fixed, so the same archives give the same bytes.
"""

import gzip
import hashlib
import io
import json
import pathlib
import sys
import tarfile
from datetime import datetime, timezone

NAME = "vault-plugin-secrets-datastax-astra"
LICENCES = ("LICENSE.txt", "NOTICE", "THIRD_PARTY_LICENSES")
OCI = "application/vnd.oci.image"
# On arm64, OpenBao looks for the variant v8. Docker and containerd take arm64 with and without it for the same.
PLATFORMS = {
    "linux_amd64": {"architecture": "amd64", "os": "linux"},
    "linux_arm64": {"architecture": "arm64", "os": "linux", "variant": "v8"},
}


def compact(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


class Layout:
    """A folder with an OCI image layout."""

    def __init__(self, folder):
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)

    def add(self, kind, content):
        """Writes a blob and returns its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.blobs / digest).write_bytes(content)
        return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    def finish(self, index, tag):
        entry = index | {"annotations": {"org.opencontainers.image.ref.name": tag}}
        (self.folder / "oci-layout").write_bytes(compact({"imageLayoutVersion": "1.0.0"}))
        (self.folder / "index.json").write_bytes(
            compact({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry]})
        )


def root_file_system(archive, release):
    """Returns the layer as an uncompressed tar archive, and the time of the files."""
    with tarfile.open(archive) as packed:
        members = {name: packed.getmember(f"{release}/{name}") for name in (NAME, *LICENCES)}
        contents = {name: packed.extractfile(member).read() for name, member in members.items()}
    time = members[NAME].mtime
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as layer:

        def add(path, mode, content=None):
            entry = tarfile.TarInfo(path)
            entry.mtime, entry.mode = time, mode
            if content is None:
                entry.type = tarfile.DIRTYPE
                layer.addfile(entry)
            else:
                entry.size = len(content)
                layer.addfile(entry, io.BytesIO(content))

        add("licenses", 0o755)
        for name in LICENCES:
            add(f"licenses/{name}", 0o644, contents[name])
        add(NAME, 0o755, contents[NAME])
    return out.getvalue(), time


def image(layout, archive, version, platform):
    """Adds the image of one platform and returns its descriptor."""
    release = archive.name.removesuffix(".tar.gz")
    files, time = root_file_system(archive, release)
    layer = layout.add("layer.v1.tar+gzip", gzip.compress(files, 9, mtime=0))
    created = datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {"org.opencontainers.image.version": f"v{version}", "org.opencontainers.image.licenses": "Apache-2.0"}
    config = platform | {
        "created": created,
        "config": {"Entrypoint": [f"/{NAME}"], "User": "65532:65532", "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(files).hexdigest()}"]},
        "history": [{"created": created, "created_by": "packaging/oci.py"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": layout.add("config.v1+json", compact(config)),
        "layers": [layer],
    }
    return layout.add("manifest.v1+json", compact(manifest)) | {"platform": platform}


def main():
    if len(sys.argv) != 3:
        sys.exit("oci: pass the folder with the release archives and a new folder")
    archives = sorted(pathlib.Path(sys.argv[1]).glob(f"{NAME}_*.tar.gz"))
    found = {}
    for archive in archives:
        version, _, platform = archive.name.removeprefix(f"{NAME}_").removesuffix(".tar.gz").partition("_")
        if platform in PLATFORMS:
            found[version, platform] = archive
    versions = {version for version, _ in found}
    if len(versions) != 1:
        sys.exit(f'oci: "{sys.argv[1]}" has archives of the versions {sorted(versions)}: leave the archives of one version')
    version = versions.pop()
    layout = Layout(pathlib.Path(sys.argv[2]))
    images = [image(layout, archive, version, PLATFORMS[platform]) for (_, platform), archive in sorted(found.items())]
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": images}
    layout.finish(layout.add("index.v1+json", compact(index)), f"v{version}")
    print(f"v{version}")


if __name__ == "__main__":
    main()
