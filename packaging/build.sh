#!/bin/sh
# Builds the binary that ships, and prints its path. "build.sh profiling" builds it with symbols and frame pointers instead.
# Cargo.toml, [profile.release], says how the code is optimized, and .cargo/config.toml how C code is built.
set -eu

cd "$(dirname "$0")/.."
name=vault-plugin-secrets-datastax-astra
profile=${1:-release}
# Naming the target keeps the flags below away from build scripts and procedural macros.
triple=$(rustc -vV | sed -n 's/^host: //p')
folder=$(pwd -P)

target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$folder/$target ;; esac
binary=$target/$triple/$profile/$name

# A static binary needs no library of the machine that runs it. Without a static C library, the binary is linked dynamically.
flags=
# shellcheck disable=SC2086 # CC can have arguments.
library=$(${CC:-cc} -print-file-name=libc.a)
if [ -e "$library" ] && [ "${triple#*linux-gnu}" != "$triple" ]; then
    flags='-C target-feature=+crt-static'
    # A static binary relocates itself at its start. Packed relocations take 4 KiB instead of 350 KiB, but only glibc 2.36
    # and later can unpack them. With an earlier glibc, the binary would not start.
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
    if printf '%s\n' 2.36 "$glibc" | sort -CV; then
        flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs"
    fi
    # In a static binary, the crate getrandom does not detect the system call and would need /dev/urandom.
    flags="$flags --cfg getrandom_backend=\"linux_getrandom\""
fi

if [ "$profile" = profiling ]; then
    flags="$flags -C force-frame-pointers=yes"
else
    # The binary has no path of this machine, so that anybody can build the same bytes from the same commit and compilers.
    # aws-lc-sys does the same for its C code.
    sources=$(rustc --print sysroot)/lib/rustlib/src/rust
    flags="$flags --remap-path-prefix=$folder=/plugin"
    flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$sources=/rust"
fi

# The commit that -version shows. A source archive has none.
if [ -z "${BUILD_COMMIT+set}" ]; then
    BUILD_COMMIT=
    if [ -e .git ]; then
        BUILD_COMMIT=$(git rev-parse HEAD)$([ -z "$(git status --porcelain)" ] || echo -dirty)
    fi
fi

echo "building $binary (takes some minutes the first time)" >&2
BUILD_COMMIT=$BUILD_COMMIT RUSTFLAGS=$flags \
    cargo build --locked --profile "$profile" --bin "$name" --target "$triple" >&2
echo "$binary"
