#!/usr/bin/env bash
# usage: .ci/pull_request.sh BASE FOLDER
# Brings every pipeline of this clone up to date, from the DVC remote where that has the results, and compares its INT8
# model with that of the git revision BASE. Writes FOLDER/comment.md and the reports. Needs no forge.
set -euo pipefail
base=$1 out=$2
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(git rev-parse --show-toplevel)"

projects=$(git ls-files -- 'ptqflow.lock.json' '*/ptqflow.lock.json' | sed 's|[^/]*$|.|')
: > "$out/comment.md"
while read -r project; do
    (
        cd "$project"
        if [ -n "$(dvc remote list)" ]; then dvc repro --pull; else dvc repro; fi
        name=$(git rev-parse --show-prefix | sed 's|/$||; s|/|-|g')
        cp report/index.html "$out/report${name:+-$name}.html"
        # What the run changed belongs to no commit: make one that no branch has.
        git add --update . && git add dvc.lock metrics
        head=$(git stash create)
        if git cat-file -e "$base:./dvc.lock" 2> /dev/null; then
            ptqflow compare "$base" "${head:-HEAD}" --md
        else
            echo "$base has no results to compare with${name:+ for $name}."
        fi >> "$out/comment.md"
    )
done <<< "${projects:-.}"
