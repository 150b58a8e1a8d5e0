# Puts a folder in front of a search path unless it is in there already: sourcing twice changes nothing.
hhnet_prepend() {
  local -n path=$1
  case ":${path:-}:" in
    *":$2:"*) ;;
    *) path=$2${path:+:$path} ;;
  esac
  export "${1?}"
}

# Makes the messages, libraries and nodes of this package visible once it is built.
hhnet_install_space() {
  local packages
  [ -d "$1" ] || return 0
  hhnet_prepend AMENT_PREFIX_PATH "$1"
  hhnet_prepend LD_LIBRARY_PATH "$1/lib"
  for packages in "$1"/lib/python3*/site-packages "$1"/local/lib/python3*/dist-packages; do
    [ ! -d "$packages" ] || hhnet_prepend PYTHONPATH "$packages"
  done
}
