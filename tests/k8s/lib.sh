# What the cases are written with. Sourced by tests/k8s/inside.
#
# A case is a function whose name says what is claimed. It is listed with `case_of GROUP NAME`, runs in
# a shell of its own that ends at the first command that fails, and its output is shown when it does.

passed=0 failed=0 skipped=0 last_failed=
declare -A cases=()

# case_of GROUP NAME: lists a case, to be run in this order.
case_of() { cases[$1]="${cases[$1]:-} $2"; }

is_chosen() {
  local word
  [ ${#chosen[@]} -gt 0 ] || return 0
  for word in "${chosen[@]}"; do case $1 in *"$word"*) return 0 ;; esac; done
  return 1
}

run_cases() {
  local name
  for name in ${cases[$1]:-}; do
    if is_chosen "$name"; then run_case "$name"; fi
  done
}

skip_cases() {
  local name
  for name in ${cases[$1]:-}; do
    if is_chosen "$name"; then
      echo "skipped: $name: $2"
      skipped=$((skipped + 1))
    fi
  done
}

# run_case NAME: runs it and counts; last_failed is its name if it failed.
run_case() {
  local log=$run/log/case-$1.log began=$EPOCHREALTIME status word
  # Not as a condition: bash would then pass over what fails inside.
  (
    set -eE
    trap 'echo "failed at line $LINENO of $(basename "${BASH_SOURCE[0]}"): $BASH_COMMAND"' ERR
    "$1"
  ) >"$log" 2>&1 </dev/null
  status=$?
  if [ $status = 0 ]; then
    word=ok last_failed='' passed=$((passed + 1))
  else
    word=FAILED last_failed=$1 failed=$((failed + 1))
  fi
  printf '%-6s %s, %s s\n' "$word" "$1" "$(seconds_since "$began")"
  [ $status = 0 ] || sed 's/^/  | /' "$log" | tail -n 60
}

# Prints what all came to; succeeds when something ran and nothing failed.
sum_up() {
  echo "k8s: $passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

# seconds_since TIME: since a value of EPOCHREALTIME, with a decimal.
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# eventually SECONDS COMMAND...: until it succeeds.
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "did not come about: $*"
      "$@"
      return 1
    fi
    sleep 0.3
  done
}

# equal WHAT EXPECTED FOUND
equal() {
  [ "$2" = "$3" ] || { printf '%s: expected %q, found %q\n' "$1" "$2" "$3"; return 1; }
}

# says WHAT EXPECTED COMMAND...: it succeeds, and says this. Where nothing is expected, a command that
# failed would otherwise be taken for one that found nothing.
says() {
  local what=$1 expected=$2 said
  shift 2
  said=$("$@") || { printf '%s: failed with %s: %s\n' "$what" $? "$*"; return 1; }
  equal "$what" "$expected" "$said"
}

# silent COMMAND...: whether it succeeds and says nothing.
silent() {
  local said
  said=$("$@") && [ -z "$said" ]
}

# matching ARGUMENT...: grep, for which it is no failure that no line matches.
matching() { grep "$@" || [ $? = 1 ]; }

# refused WORDS COMMAND...: it fails, and says these words.
refused() {
  local words=$1 said
  shift
  if said=$("$@" 2>&1); then
    echo "not refused: $*"
    return 1
  fi
  case $said in *"$words"*) ;; *) printf 'refused without saying %q: %s\n' "$words" "$said"; return 1 ;; esac
}

# on_node SCRIPT: runs it as root on the node, outside of all containers.
on_node() {
  local number
  number=$(($(cat "$run/asked" 2>/dev/null || echo 0) + 1))
  echo "$number" >"$run/asked"
  printf '%s\n' "$1" >"$run/ask.new"
  mv "$run/ask.new" "$run/ask-$number"
  eventually 60 test -e "$run/answer-$number" || return
  cat "$run/said-$number"
  return "$(cat "$run/answer-$number")"
}

# goldleaf ...: the command line, in the server's pod.
goldleaf() { kubectl exec -n goldleaf deploy/goldleaf-server -- goldleaf "$@"; }

# in_pod POD COMMAND...
in_pod() {
  local pod=$1
  shift
  kubectl exec "$pod" -- "$@"
}

# filled MANIFEST [NAME=VALUE...]: its text, with each $NAME in it replaced.
filled() {
  local file=$here/manifests/$1.yaml pair script=''
  shift
  for pair; do script+="s|\\\$${pair%%=*}\\b|${pair#*=}|g;"; done
  sed "$script" "$file"
}

# apply MANIFEST [NAME=VALUE...]: gives it to the cluster.
apply() { filled "$@" | kubectl apply -f -; }

# until_status KIND/NAME JSONPATH=VALUE [TIME]
until_status() { kubectl wait "$1" --for=jsonpath="$2" --timeout="${3:-120s}"; }
