#!/usr/bin/env bash
# One cell of the pipeline, trained and evaluated in a clone of its own: what the batch scripts
# beside this file do in every array task.
#
# A clone, for DVC lets one command at a time work in a work tree. It shares two things with the
# main repository: DVC's cache, in which `dvc repro` there finds the result, and runs/, in which a
# job that is put back finds its state, on whichever node it starts again. The rest is thrown away.
set -euo pipefail

main() {
    repository=$SLURM_SUBMIT_DIR
    : "${COMMIT:?expected the commit to train, got none; start this by examples/slurm/submit.sh}"
    if [ -d "$repository/.venv" ]; then
        export PATH="$repository/.venv/bin:$PATH"
    fi
    told= # the signal by which the job was asked to end
    trap 'told=USR1' USR1
    trap 'told=TERM' TERM

    make_clone
    choose_cell
    code=75
    if [ -z "$told" ]; then
        code=0
        run dvc repro --single-item "$cell" "${cell/#train@/evaluate@}" || code=$?
    fi
    if [ "$code" = 0 ]; then
        say "$cell is done"
    elif [ "$told" = USR1 ]; then
        put_back
    elif [ "$told" = TERM ]; then
        # By scancel, or by a preemption, after which SLURM itself puts the job back.
        say "$cell was ended by SIGTERM; what it has done is kept"
        exit 143
    else
        say "$cell failed"
        exit "$code"
    fi
}

make_clone() {
    clone=${CELLS_DIR:-$repository.cells}/$SLURM_JOB_ID
    # DVC's notes about the clone are a database: not on a shared file system.
    DVC_SITE_CACHE_DIR=$(mktemp -d)
    export DVC_SITE_CACHE_DIR
    trap remove_clone EXIT
    rm -rf "$clone" # of a start that ended with its node
    mkdir -p "${clone%/*}" "$repository/runs"
    cache=$(cd "$repository" && dvc cache dir)
    git clone --quiet --shared --no-checkout "$repository" "$clone"
    cd "$clone"
    git checkout --quiet --detach "$COMMIT"
    ln -s "$repository/runs" runs
    echo runs >> .git/info/exclude # .gitignore names a directory, and this is a link
    if [ -f "$repository/.dvc/config.local" ]; then
        cp "$repository/.dvc/config.local" .dvc/config.local
    fi
    dvc config --quiet --local cache.dir "$cache"
    dvc config --quiet --local cache.type reflink,hardlink,symlink,copy
    # What a cell reads. The videos are not among it.
    dvc checkout --quiet data/videos.parquet data/quarantine.csv create_dataset create_splits generate_augmentations init_model embed
}

remove_clone() {
    cd /
    rm -rf "$clone" "$DVC_SITE_CACHE_DIR"
}

choose_cell() {
    local number=$SLURM_ARRAY_TASK_ID
    cell=$(dvc stage list --name-only train | sed -n "$((number + 1))p")
    if [ -z "$cell" ]; then
        say "params.yaml of $COMMIT: expected a cell number $number, counted from 0, found fewer"
        exit 1
    fi
    say "$cell of ${COMMIT:0:8} on ${SLURMD_NODENAME:-this node}, job $SLURM_JOB_ID," \
        "put back ${SLURM_RESTART_COUNT:-0} times"
}

# Run a command; when the job is asked to end, so is every process of the command, until all have.
run() {
    # In a process group of its own, and with the signals ignored. DVC and shells would die of them
    # and leave the training behind; a training takes them nevertheless, saves and ends.
    set -m
    (
        trap '' USR1 TERM
        exec "$@"
    ) &
    set +m
    local group=$! second=0
    while kill -0 -- "-$group" 2> /dev/null; do
        # Again after a while: a training that is still importing takes no signal.
        if [ "$told" ] && ((second++ % 20 == 0)); then
            kill -s "$told" -- "-$group" 2> /dev/null || true
        fi
        sleep 1
    done
    wait "$group"
}

put_back() {
    say "$cell is saved and goes on when the job starts again"
    # Before, since this ends the job. By both numbers: that of one task is also that of them all.
    remove_clone
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ||
        say "the job could not be put back; submit.sh queues it again"
    exit 75
}

say() {
    echo "cell: $*"
}

# Called last, when bash has read the whole file: an edit of it reaches no job at work.
main
exit 0
