# shellcheck shell=bash
# Sourced by the other scripts from the root of the repository: puts a Python with
# the pinned packages first on PATH, installing only when the pins have changed.
#
# Which Python: the one PYTHON names; else the active virtual environment; else .venv
# as it stands; else the first of python3, python3.13, python3.12, python3.11 that
# constraints/ has pins for. A second Python gets a folder of its own: .venv-3.12.
# EXTRAS=tpu,gcs installs these extras of setup.py too.
set -euo pipefail

_say() { echo "env: $*" >&2; }
_fail() { _say "$@" && exit 1; }

# Prints 3.12 for a Python 3.12, nothing where $1 does not run.
_minor() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# Stops unless there are pins for Python $2; $1 is where it was found.
_need_pins() {
  [[ ! -f constraints/$2.txt ]] || return 0
  _fail "llmjax has pins for Python" \
    "$(cd constraints && echo ?.??.txt | sed 's/\.txt//g')," \
    "but $1 ${2:+is }${2:-does not run};" \
    "name another, as in: PYTHON=python3.12 bash $0"
}

# Sets `python`, the interpreter that environments are made from.
_choose_python() {
  local candidate
  python=${PYTHON:-python3}
  [[ -z ${PYTHON:-} ]] || return 0
  for candidate in python3 python3.13 python3.12 python3.11; do
    if [[ -f constraints/$(_minor "$candidate").txt ]]; then
      python=$candidate
      return
    fi
  done
}

# Sets `venv` and its `minor`, making the environment where there is none.
_choose_venv() {
  local python
  venv=${VIRTUAL_ENV:-$PWD/.venv}
  minor=$(_minor "$venv/bin/python")
  if [[ -n $minor && (-z ${PYTHON:-} || $(_minor "${PYTHON:-}") == "$minor") ]]; then
    _need_pins "$venv" "$minor"
    return
  fi

  _choose_python
  minor=$(_minor "$python")
  _need_pins "$python" "$minor"
  for venv in "$PWD/.venv" "$PWD/.venv-$minor"; do
    case $(_minor "$venv/bin/python") in
      "$minor") return ;;
      "") break ;; # absent, or broken and made anew
    esac
  done
  _say "making ${venv##*/} with Python $minor"
  "$python" -m venv --clear "$venv" ||
    _fail "$python made no environment (on Debian: apt install python$minor-venv)"
}

# Installs, unless the stamp in the environment says that exactly this is there.
_install() {
  local pins=constraints/$minor.txt stamp=$venv/.llmjax-installed wanted
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check)
  wanted="$PWD ${EXTRAS:-} $(cat setup.py "$pins" | cksum)"
  [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]] || return 0
  _say "installing the $(grep -c == "$pins") packages of $pins into ${venv##*/}," \
    "once, a few minutes"
  "${pip[@]}" --version >/dev/null 2>&1 ||
    "$venv/bin/python" -m ensurepip --default-pip >/dev/null
  "${pip[@]}" install --quiet --no-input -e ".[report,dev${EXTRAS:+,$EXTRAS}]" \
    -c "$pins" ||
    _fail "the installation failed, pip says why above"
  echo "$wanted" >"$stamp"
}

_choose_venv
_install
export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
# Large temporaries in huge pages, where the C library is glibc: on a CPU a step faults
# a quarter of a million times without (LOG.md).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
unset -v venv minor PYTHONHOME
unset -f _say _fail _minor _need_pins _choose_python _choose_venv _install
