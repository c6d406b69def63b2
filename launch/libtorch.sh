# libtorch for the cargo feature of that name: where it lies, and how it is put together from wheels of PyPI (sourced by
# the scripts of this folder, not run).
#
# The wheel of PyTorch is the CUDA build, but its CPU library runs alone: it only wants two small libraries of CUDA to
# be present, which it loads and never calls. What the wheel calls libtorch.so needs the CUDA half; an empty library
# that needs the CPU half takes its place. No PyTorch is installed, and Python is used for unpacking only.

# The version that burn-tch 0.22.1 is made for. The wheels, with the checksums of the files as PyPI serves them.
libtorch_version=2.9.0
libtorch_requirements() {
  cat <<'REQUIREMENTS'
torch==2.9.0 --hash=sha256:51de31219c97c51cf4bf2be94d622e3deb5dcc526c6dc00e97c17eaec0fc1d67
nvidia-cuda-runtime-cu12==12.8.90 --hash=sha256:adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90
nvidia-cuda-cupti-cu12==12.8.90 --hash=sha256:ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182
REQUIREMENTS
}

# libtorch_folder: where it is or will be; `LIBTORCH` overrides it for the build too (.cargo/config.toml).
libtorch_folder() { printf '%s\n' "${LIBTORCH:-$root/.libtorch}"; }

# has_libtorch: the folder holds a whole libtorch, of the right version if it says one.
has_libtorch() {
  local folder
  folder=$(libtorch_folder)
  [ -f "$folder/lib/libtorch_cpu.so" ] && [ -f "$folder/lib/libtorch.so" ] && [ -d "$folder/include/torch" ] || return 1
  case $(cat "$folder/build-version" 2>/dev/null) in "" | "$libtorch_version" | "$libtorch_version"+*) ;; *) return 1 ;; esac
}

# libtorch_features: sets the array `features` to the cargo arguments that compile libtorch in, where it is assembled.
libtorch_features() {
  features=()
  if has_libtorch; then features=(--features libtorch); fi
}

# fetch_libtorch_wheels FOLDER: downloads the three wheels; pip refuses a file with another checksum.
fetch_libtorch_wheels() {
  local folder=$1
  libtorch_requirements >"$folder/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
    --require-hashes --requirement "$folder/requirements.txt" --dest "$folder" \
    --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 >&2 ||
    die "the wheels of libtorch $libtorch_version could not be fetched (see above). No network, or no PyPI? Everything but \
the cargo feature \`libtorch\` works without them; a libtorch of your own is used with LIBTORCH=<its folder>"
}

# unpack_libtorch_wheels WHEELS FOLDER: takes headers and CPU libraries out of the wheels.
unpack_libtorch_wheels() {
  python3 - "$1" "$2" <<'PYTHON'
import pathlib, shutil, sys, zipfile

wheels, target = map(pathlib.Path, sys.argv[1:])
libraries = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.12", "libcupti.so.12"}
missing = set(libraries)
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = pathlib.PurePosixPath(member.filename)
            if name.name in libraries and "lib" in name.parts:
                place = target / "lib" / name.name
                missing.discard(name.name)
            elif name.parts[:2] == ("torch", "include") and not member.is_dir():
                place = target.joinpath(*name.parts[1:])
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(place, "wb") as copy:
                shutil.copyfileobj(source, copy)
if missing:
    sys.exit(f"error: not in the wheels: {', '.join(sorted(missing))}")
PYTHON
}

# assemble_libtorch: makes the folder, whole or not at all; leaves one that is there as it is.
assemble_libtorch() {
  local folder parts
  folder=$(libtorch_folder)
  if has_libtorch; then
    say "libtorch $libtorch_version is in $folder"
    return 0
  fi
  [ "$(uname -sm)" = "Linux x86_64" ] || die "libtorch is assembled for Linux on x86-64 only, not for $(uname -sm); \
use a libtorch $libtorch_version of your own with LIBTORCH=<its folder>"
  [ ! -e "$folder" ] || die "\`$folder\` is there and is no whole libtorch $libtorch_version; \
name another folder with LIBTORCH, or remove this one if it is the rest of an earlier attempt"
  mkdir -p "$(dirname "$folder")"
  parts=$folder.part
  rm -rf "$parts"
  mkdir -p "$parts/wheels" "$parts/lib"
  say "fetching libtorch $libtorch_version from PyPI: 900 MB, of which 490 MB stay"
  fetch_libtorch_wheels "$parts/wheels"
  unpack_libtorch_wheels "$parts/wheels" "$parts"
  rm -r "$parts/wheels"
  # Linkers drop a library of which nothing is used; this one is needed for what it needs itself.
  # shellcheck disable=SC2016 # $ORIGIN is for the dynamic linker.
  cc -shared -o "$parts/lib/libtorch.so" -Wl,-soname,libtorch.so -Wl,--no-as-needed -Wl,--allow-shlib-undefined \
    -Wl,-rpath,'$ORIGIN' -L "$parts/lib" -ltorch_cpu -lc10
  echo "$libtorch_version" >"$parts/build-version"
  mv "$parts" "$folder"
  has_libtorch || die "\`$folder\` is not whole after the assembly"
  say "libtorch $libtorch_version is in $folder; now \`cargo build --release --features libtorch\`"
}
