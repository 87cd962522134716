#!/bin/bash
# The container's front door: what a command needs must be there before it starts. What is missing is said in one line
# with its remedy, exit code 2; a shell is let in all the same, to look around.
set -eu

problem() {
  printf 'engram: %s\n  fix: %s\n' "$1" "$2" >&2
  case $asked in bash | sh | /bin/bash | /bin/sh) ;; *) exit 2 ;; esac
}

# the backend that the command names, else the image's
backend_of() {
  local found=${BACKEND:-cuda} before='' word
  for word in "$@"; do
    case $word in BACKEND=?*) found=${word#BACKEND=} ;; --backend=?*) found=${word#--backend=} ;; esac
    [ "$before" != --backend ] || found=$word
    before=$word
  done
  echo "$found"
}

check_gpu() {
  local host='on the host: docs/container.md lists each step; without a GPU: SERVICE=engram-cpu' version
  if ! command -v nvidia-smi >/dev/null; then
    problem 'BACKEND=cuda, but this container was started without a GPU' \
      "start it with make docker-train, or docker run --gpus all; driver and nvidia-container-toolkit $host"
    return
  fi
  version=$(timeout 30 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1 | head -n 1) || true
  case $version in
    [0-9]*.*) ;;
    *)
      problem "BACKEND=cuda, but the NVIDIA driver does not answer: ${version:-nothing}" \
        "nvidia-smi must work $host (after an update of the driver: reboot)"
      return
      ;;
  esac
  [ "${version%%.*}" -ge "${MINIMUM_DRIVER:-0}" ] \
    || problem "the NVIDIA driver is $version, this image's CUDA needs $MINIMUM_DRIVER or newer" \
      "update the driver $host"
}

check_folders() {
  local folder
  for folder in "$HOME" "$HF_HOME" "$TRITON_CACHE_DIR" "$TORCHINDUCTOR_CACHE_DIR" "$UNSLOTH_COMPILE_LOCATION" "$XDG_CACHE_HOME"; do
    # shellcheck disable=SC2015
    mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] \
      || problem "the cache $folder is not writable for user $(id -u): another one made it" \
        'use a cache of your own: ENGRAM_CACHE=my-cache (or remove the old: docker volume rm engram-cache)'
  done
  [ -w . ] || problem "$PWD is not writable for user $(id -u)" \
    'run it as the owner of the checkout, or set ENGRAM_UID and ENGRAM_GID to the owner'
}

# the packages are the image's: right as long as the checkout asks for the same, whatever its files' times are
check_packages() {
  local made
  for made in "$ENGRAM_VENV"/requirements*.txt; do
    [ ! -f "${made##*/}" ] || cmp -s "$made" "${made##*/}" \
      || problem "${made##*/} is not the one that this image was made from" 'make docker-build'
  done
  touch "$ENGRAM_VENV"/.ready-*
}

asked=${1:-}
[ "$(backend_of "$@")" != cuda ] || check_gpu
check_folders
check_packages
exec "$@"
