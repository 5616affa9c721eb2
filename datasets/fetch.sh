# Shared by the scripts beside it: download with resume, and unpack.
set -euo pipefail

usage_and_exit() { # prints the comment at the top of the calling script
  sed -n '2,/^[^#]/s/^# //p' "$0" >&2
  exit 2
}

# download URL FILE: resumes a broken download; FILE appears only when it is complete.
download() {
  [[ -f "$2" ]] && return
  curl --fail --location --retry 3 --continue-at - --output "$2.part" "$1"
  mv "$2.part" "$2"
}

# fetch_archive URL FOLDER: unpacks a .tgz, .tar.gz or .zip into FOLDER and removes the archive.
fetch_archive() {
  local archive="$2/$(basename "$1")"
  mkdir -p "$2"
  download "$1" "$archive"
  case "$archive" in
    *.zip) unzip -q -o "$archive" -d "$2" ;;
    *) tar -xzf "$archive" -C "$2" ;;
  esac
  rm "$archive"
}
