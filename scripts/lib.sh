# Shared by the scripts beside it: brings a fresh Debian machine to where this project builds. Source it.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf '\n== %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else echo "needs root: $*" >&2; return 1
  fi
}

need_package() { # COMMAND PACKAGE
  command -v "$1" >/dev/null && return 0
  command -v apt-get >/dev/null || { echo "$1 is missing, and this is not Debian: install $2" >&2; exit 1; }
  say "installing $2"
  as_root apt-get update -qq
  as_root apt-get install -y -qq "$2" >/dev/null
}

# rustup fetches the stable toolchain from the Rust project. Debian packages it from Debian 13 on.
rust() {
  say "installing Rust"
  if apt-cache show rustup >/dev/null 2>&1; then
    need_package rustup rustup
    rustup default stable
  else
    need_package curl curl
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt,clippy
    # shellcheck disable=SC1091
    . "$HOME/.cargo/env"
  fi
}

# A C compiler for the linker, and Rust 1.88 or later.
setup() {
  need_package cc build-essential
  if ! command -v cargo >/dev/null; then
    # shellcheck disable=SC1091
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  fi
  if ! command -v cargo >/dev/null; then
    rust
  fi
  local version
  version=$(cargo --version | sed 's/cargo 1\.\([0-9]*\).*/\1/')
  [ "$version" -ge 88 ] || { echo "Rust 1.88 or later is needed, this is 1.$version: run rustup update" >&2; exit 1; }
}
