# Sourced by the scripts beside it: steps with elapsed time, and errors that say what to do.
# shellcheck shell=bash disable=SC2034 # the colours are for those who source this

# What the steps print goes to one file in the working copy, which is not tracked; a run as root may have made it
# unwritable for others.
progress_log=${KILN_SETUP_LOG:-.kiln/setup.log}
if ! { mkdir -p "$(dirname "$progress_log")" && : >>"$progress_log"; } 2>/dev/null; then
	progress_log=$(mktemp "${TMPDIR:-/tmp}/kiln-setup.XXXXXX")
fi
progress_log=$(readlink -f "$progress_log")
export KILN_SETUP_LOG=$progress_log

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' reset=$'\e[0m'
else
	bold='' dim='' red='' green='' yellow='' reset=''
fi

# heartbeat_seconds is how often a long step says that it is alive when there is no terminal.
heartbeat_seconds=15

# ok TEXT prints a finished step.
ok() { printf '%s✓%s %s\n' "$green" "$reset" "$*"; }

# warn TEXT prints something that deserves attention.
warn() { printf '%s!%s %s\n' "$yellow" "$reset" "$*" >&2; }

# die TEXT [NEXT-STEP...] ends the script: what is wrong, then what to do.
die() {
	printf '%s✗ %s%s\n' "$red" "$1" "$reset" >&2
	shift
	[[ $# -eq 0 ]] || printf '  %s\n' "$@" >&2
	exit 1
}

# try TEXT COMMAND... runs a command, shows how long it takes and keeps its output in the log.
# It returns the command's status.
try() {
	local text=$1 start=$SECONDS beat=$SECONDS pid status=0 shown
	shift
	printf '== %s: %s\n' "$text" "$*" >>"$progress_log"
	"$@" >>"$progress_log" 2>&1 </dev/null &
	pid=$!
	[[ -t 1 ]] || printf '… %s\n' "$text"
	while kill -0 "$pid" 2>/dev/null; do
		if [[ -t 1 ]]; then
			shown=$(tail -n 1 "$progress_log" 2>/dev/null | tr -cd '[:print:]' | cut -c 1-40)
			printf '\r\e[K… %s %s%ds %s%s' "$text" "$dim" $((SECONDS - start)) "$shown" "$reset"
		elif ((SECONDS - beat >= heartbeat_seconds)); then
			beat=$SECONDS
			printf '  %s (%ds)\n' "$text" $((SECONDS - start))
		fi
		sleep 0.2
	done
	wait "$pid" || status=$?
	[[ -t 1 ]] && printf '\r\e[K'
	((status == 0)) && ok "$text $dim$((SECONDS - start))s$reset"
	return "$status"
}

# step is try, but a failure shows the last lines and ends the script.
step() {
	if ! try "$@"; then
		tail -n 30 "$progress_log" | sed 's/^/  | /' >&2
		die "$1: failed" "The whole log is in $progress_log"
	fi
}
