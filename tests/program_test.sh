#!/usr/bin/env bash
# The kvasir binary as a shell sees it: output, messages and exit codes of whole commands on the bundled model.
# Usage: program_test.sh KVASIR MODELS_NANO
set -uo pipefail
kvasir=$1 nano=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
  failures=$((failures + 1))
  echo "FAILED: $1"
  sed 's/^/  out: /' out | head -5
  sed 's/^/  err: /' err | head -5
}

# expect CODE WORDS COMMAND...: the command ends with this exit code and WORDS stand in what it printed.
expect() {
  local code=$1 words=$2 got=0
  shift 2
  "$@" >out 2>err </dev/null || got=$?
  [[ $got == "$code" ]] || fail "exit code $got, expected $code: $*"
  grep -qF -- "$words" out err || fail "no '$words' from: $*"
  if [[ $code == 2 && $(wc -l <err) != 1 ]]; then fail "not one line: $*"; fi
}

printf 'int main(void) { return 0; }\n' >main.c
printf 'A line of prose about rivers.\n' >prose.txt
mkdir folder
generate=("$kvasir" generate --max-tokens 12 --seed 7)

# Bad input: one line that says what is wrong, and 2.
expect 2 "which subcommand?" "$kvasir"
expect 2 "there is no subcommand 'foo'" "$kvasir" foo
expect 2 "nothing to do" "$kvasir" generate
expect 2 "missing: cannot open" "${generate[@]}" -f missing
expect 2 "folder: a folder, expected a regular file" "${generate[@]}" -f folder
expect 2 "tokenizer.json" "${generate[@]}" -m folder -p x
expect 2 "folder/config.json" "$kvasir" inspect folder
expect 2 "main.c/config.json" "$kvasir" inspect main.c
expect 2 "not valid JSON" "$kvasir" logits -m "$nano" --ids main.c --out l
expect 2 "no fast numerics" "${generate[@]}" -p x --backend reference --numerics fast
printf '[1,2,3]' >ids.json
mkfifo pipe
expect 2 "pipe: a device, pipe or socket" "$kvasir" logits -m "$nano" --ids ids.json --out pipe
cp -r "$nano" cut
chmod -R u+w cut
truncate -s 1000000 cut/model.safetensors
expect 2 "truncated file" "$kvasir" inspect cut
expect 2 "truncated file" "${generate[@]}" -m cut -p x

# A note of the loader names the program once.
cp -r "$nano" noted
chmod -R u+w noted
sed -i '0,/{/s//{"zzz": 1,/' noted/config.json
expect 0 "kvasir: noted/config.json: unknown key zzz" "${generate[@]}" -m noted -p x
grep -q "kvasir: kvasir" err && fail "two names in a note"

# The same seed gives the same text, whatever the threads and drafts.
expect 0 "GQA8" "${generate[@]}" -f main.c -f prose.txt -p "What are these?"
cp out first
[[ -s first ]] || fail "no text"
for flags in "--threads 1" "--threads 3" "--draft mtp"; do
  # shellcheck disable=SC2086
  expect 0 "seed 7" "${generate[@]}" -f main.c -f prose.txt -p "What are these?" $flags
  cmp -s out first || fail "another text with $flags"
done
expect 0 '"finish_reason": "length"' "${generate[@]}" -p x --json --logprobs 2 --logit-bias 39:100

# Output that cannot be written is an error; a reader that has enough is not.
"${generate[@]}" -p x >/dev/full 2>err && fail "a full disk went unnoticed"
grep -q "standard output: cannot write" err || fail "no word of the full disk"
"$kvasir" inspect "$nano" 2>err | head -1 >out
[[ -s err ]] && fail "noise after head closed the pipe"

# Ctrl-C: 130, and statistics of what was read. A shell's background job ignores SIGINT until the program
# catches it (bit 1 of SigCgt), so that is waited for.
for ((i = 0; i < 20000; ++i)); do echo "line $i of a long file"; done >long.txt
"$kvasir" generate -f long.txt -p x >out 2>err &
pid=$!
until [[ $(awk '/^Name:/ {name = $2} /^State:/ {state = $2} /^SigCgt:/ {print name, state, $2}' "/proc/$pid/status") =~ \
  ^(.*\ Z\ .*|kvasir\ .*[2367abef])$ ]]; do
  sleep 0.02
done
kill -INT "$pid"
code=0
wait "$pid" || code=$?
[[ $code == 130 ]] || fail "exit code $code after Ctrl-C, expected 130"
grep -q "0 generated at 0.0/s" err || fail "odd statistics after Ctrl-C"

# A chat through a pipe: files, save, load, statistics, and an unknown command that ends nothing.
printf '%s\n' "/file main.c" "What is it?" "/stats" "/save talk.json" "/load talk.json" "And now?" "/stats" "/nonsense" "/exit" |
  "$kvasir" chat --seed 3 --max-tokens 20 >out 2>err || fail "chat ended in $?"
for words in "main.c goes with your next message" "saved 2 messages to talk.json" "loaded 2 messages" "no command /nonsense" " cached at "; do
  grep -qF "$words" err || fail "no '$words' in a chat"
done
[[ $(wc -l <out) -ge 2 ]] || fail "two answers expected"
grep -q '"role": "assistant"' talk.json || fail "nothing saved"

if ((failures)); then
  echo "$failures failed"
  exit 1
fi
