#!/usr/bin/env bash
# Queue the cells of params.yaml that have no result yet, as one array of jobs:
#
#     examples/slurm/submit.sh examples/slurm/train.sbatch [options of sbatch]
#
# AT_ONCE is the number of jobs that may run at the same time. The jobs train what is committed.
set -euo pipefail

script=${1:?expected a batch script, got none; give examples/slurm/train.sbatch}
shift
cd "$(git rev-parse --show-toplevel)"
if [ -d .venv ]; then
    export PATH="$PWD/.venv/bin:$PATH"
fi

fail() {
    echo "submit: $*" >&2
    exit 1
}

git diff --quiet HEAD || fail "expected a work tree without changes, got $(
    git diff --name-only HEAD | xargs
); commit them, the jobs train what is committed"
dvc status --quiet --with-deps generate_augmentations init_model embed || fail \
    "expected the data of the cells to be up to date, got changes; prepare it" \
    "(srun dvc repro generate_augmentations init_model embed) and commit dvc.lock"

mapfile -t cells < <(dvc stage list --name-only train)
changed=$(dvc status --json "${cells[@]}")
numbers=()
for number in "${!cells[@]}"; do
    if [[ $changed == *"\"${cells[number]}\""* ]]; then
        numbers+=("$number")
        echo "submit: $number ${cells[number]}"
    fi
done
if [ ${#numbers[@]} = 0 ]; then
    echo "submit: all cells have their result"
    exit 0
fi

mkdir -p runs/slurm
COMMIT=$(git rev-parse HEAD)
export COMMIT
array=$(
    IFS=,
    echo "${numbers[*]}"
)
sbatch --array="$array${AT_ONCE:+%$AT_ONCE}" "$@" "$script"
