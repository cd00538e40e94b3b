#!/usr/bin/env bash
# Drives the server's page in Chromium: the built-in model, and a masked autoencoder that is trained for some seconds.
#
#   tools/page.sh [FOLDER]     after `cargo test --release`, whose program it runs; screenshots go to FOLDER
#
# Exit code: 0 passed, or no browser or package can be had here; else that of the test.
set -euo pipefail
cd "$(dirname "$0")/.."
vitrum=${CARGO_TARGET_DIR:-$PWD/target}/release/vitrum
test -x "$vitrum" || { echo "$vitrum is missing: cargo build --release -p vitrum-cli" >&2; exit 2; }

work=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
shots=${1:-$work/shots}

untried() {
    echo "$1: the page is not tried" >&2
    exit 0
}

# Names of Debian's packages for the programs that are missing.
missing=()
command -v "${CHROMIUM:-chromium}" >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if ((${#missing[@]})); then
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        untried "${missing[*]} missing"
    fi
    { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$work/apt.log" 2>&1 ||
        untried "apt-get cannot install ${missing[*]}"
fi
browser=${CHROMIUM:-chromium}
CHROMIUM=$(command -v "$browser") || untried "$browser missing"
export CHROMIUM

mkdir "$work/page"
cp crates/vitrum-server/tests/page/{package.json,page.mjs} "$work/page/"
(cd "$work/page" && npm install --no-audit --no-fund --no-package-lock --fetch-retries 1) >"$work/npm.log" 2>&1 ||
    untried "npm cannot install the test's package"

"$vitrum" demo "$work/pictures" --count 1 --size 224 --quiet
picture=$(find "$work/pictures" -name '*.png')
"$vitrum" pretrain demo:512 -m mae_vit_tiny_patch4_32 --model-kwargs embed_dim=64 depth=2 num_heads=2 \
    --decoder-embed-dim 32 --decoder-depth 1 --decoder-num-heads 2 --epochs 4 -b 32 --lr 2e-3 \
    --output "$work/runs" --experiment page --quiet >"$work/pretrain.log" 2>&1 || { cat "$work/pretrain.log" >&2; exit 1; }

"$vitrum" serve demo mae="$work/runs/pretrain/page/model" --port 0 2>"$work/serve.log" &
server=$!
url=
for _ in $(seq 600); do
    url=$(sed -n 's/^serving .* on \(http.*\)$/\1/p' "$work/serve.log")
    if [[ -n $url ]] || ! kill -0 "$server" 2>/dev/null; then break; fi
    sleep 0.1
done
test -n "$url" || { cat "$work/serve.log" >&2; exit 1; }

node "$work/page/page.mjs" "$url" "$picture" "$shots"
