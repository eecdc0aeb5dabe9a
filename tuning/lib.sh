# Shared by check, apply and revert: the values, and why. Source it.

# KEY|VALUE|why. A larger value than ours is left alone.
values='net.core.somaxconn|10000|connections that wait to be accepted: the listen backlog is capped by it
net.ipv4.tcp_max_syn_backlog|16384|handshakes under way when many clients come back at once
net.core.netdev_max_backlog|16384|packets per core before the kernel drops them
net.ipv4.tcp_tw_reuse|1|outgoing ports of the load generator come back at once
net.ipv4.tcp_slow_start_after_idle|0|a quiet connection sends its next burst without a new slow start
net.ipv4.tcp_notsent_lowat|16384|unsent bytes per socket: more would make the latest message stale
net.core.busy_poll|50|microseconds of polling before a socket read sleeps: latency for processor time
fs.nr_open|1048576|the most descriptors a process may be given
fs.file-max|2097152|the most descriptors of the host'

saved=/var/lib/corecast/sysctl.before
descriptors=1048576

each() { # FUNCTION: called with key, value and reason of each line
  while IFS='|' read -r key value why; do "$1" "$key" "$value" "$why"; done <<< "$values"
}

# Where the kernel keeps a value: reading it there needs no program that a user's path may lack.
file_of() { echo "/proc/sys/${1//.//}"; }

current() { cat "$(file_of "$1")" 2>/dev/null || true; }

set_value() { # KEY VALUE
  { echo "$2" > "$(file_of "$1")"; } 2>/dev/null
}

# Whether the host's value serves: for switches and for the low-water mark equality, otherwise at least ours.
serves() { # KEY VALUE
  local now
  now=$(current "$1")
  case $1 in
    *slow_start_after_idle | *tw_reuse | *notsent_lowat) [ "$now" = "$2" ] ;;
    *) [ -n "$now" ] && [ "$now" -ge "$2" ] 2>/dev/null ;;
  esac
}

need_root() { [ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 1; }; }
