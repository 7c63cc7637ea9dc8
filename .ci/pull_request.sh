#!/usr/bin/env bash
# usage: .ci/pull_request.sh BASE FOLDER [--max-drop POINTS] [--significant]
# Brings every pipeline of this clone up to date, from the DVC remote where that has the results, and compares its INT8
# model with that of the git revision BASE. Writes FOLDER/comment.md and the reports; exits with 1 if a comparison fails
# or a model is worse than the options allow. Needs no forge; .github/workflows/ptqflow.yaml runs it on GitHub.
set -euo pipefail
base=$1 out=$2
limits=("${@:3}")
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(git rev-parse --show-toplevel)"
: > "$out/comment.md"

check() {  # the pipeline of this folder
    local prefix name head
    prefix=$(git rev-parse --show-prefix)
    name=${prefix%/}
    if [ -n "$(dvc remote list)" ]; then dvc repro --pull; else dvc repro; fi
    ptqflow report -o "$out/report${name:+-${name//\//-}}.html"
    # What the run has changed is in no commit: make one that no branch has.
    git add --update .
    git add dvc.lock metrics
    head=$(git stash create)
    [ -z "$name" ] || printf '\n## %s\n\n' "$name" >> "$out/comment.md"
    if ! git cat-file -e "$base:${prefix}dvc.lock" 2> /dev/null; then
        echo "$base has no results to compare with." >> "$out/comment.md"
        return
    fi
    local failed=0
    ptqflow compare "$base" "${head:-HEAD}" --md ${limits[@]+"${limits[@]}"} \
        >> "$out/comment.md" 2> "$out/errors" || failed=1
    tee -a "$out/comment.md" < "$out/errors" >&2
    rm "$out/errors"
    return "$failed"
}

status=0
projects=$(git ls-files -- 'ptqflow.lock.json' '*/ptqflow.lock.json')
while IFS= read -r file; do
    (set -e; cd "$(dirname "$file")"; check) < /dev/null &
    wait $! || status=1  # not `( … ) || status=1`, in which the shell would ignore `set -e`
done <<< "${projects:-dvc.yaml}"
exit "$status"
