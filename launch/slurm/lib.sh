# shellcheck shell=bash
# A Slurm job as one Ray cluster and one driver. Sourced by train.sbatch and sweep.sbatch.
#
# Owns the order of a job, what signals mean and that nothing is left running. Refuses to own
# what runs (rlpost/cli/slurm.py, rlpost/cli/doctor_node.py, rlpost/cli/main.py).
#
# Settings, all optional:
#   RLPOST_PYTHON        interpreter with rlpost (default: .venv/bin/python of this checkout)
#   RLPOST_PREFIX        put before every command, such as `apptainer exec --nv image.sif`
#   RLPOST_SRUN          more options of srun, such as `--container-image=...`
#   RLPOST_RAY           more options of `ray start`, such as `--object-store-memory=...`
#   RLPOST_DEADLINE_S    for all nodes to answer: before Ray starts, and again when it has (120)
#   RLPOST_HEAD_ADDRESS  of the first node (default: the one that Slurm knows)
#   RLPOST_PORT_BASE     first of three ports on the first node (default: from the job's number)
#   RLPOST_LOGS          where the job's folder of logs goes (default: slurm-logs)
#   RLPOST_TMP           directory for Ray's sockets on every node (default: /tmp)

RLPOST_PYTHON="${RLPOST_PYTHON:-$RLPOST_HOME/.venv/bin/python}"
RLPOST_TMP="${RLPOST_TMP:-/tmp}"
# The number of an array's last task is also that of the whole array: name the task.
job="$SLURM_JOB_ID"
if [[ "${SLURM_ARRAY_TASK_ID:-}" ]]; then
    job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
readonly job
readonly ENOUGH_S=30 # for Ray to end when it is told to

say() { echo "[$(date +%H:%M:%S)] $*"; }

fail() {
    say "$2"
    exit "$1"
}

run_job() {
    set_up
    trap 'on_signal USR1' USR1
    trap 'on_signal TERM' TERM
    trap tear_down EXIT
    preflight
    start_ray
    run_driver "$@"
}

# run_member <stage> [overrides]: run_job with the overrides of this array task's sweep member.
run_member() {
    local member=()
    [[ "${SLURM_ARRAY_TASK_ID:-}" ]] || fail 2 "a sweep is an array: sbatch --array=0-LAST ..."
    mapfile -d '' member < <(python_on_head -- -m rlpost.cli.slurm member \
        --index "$SLURM_ARRAY_TASK_ID" "$@")
    wait "$!"
    say "member $SLURM_ARRAY_TASK_ID: rlpost ${member[*]}"
    run_job "${member[@]}"
}

set_up() {
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head="${nodes[0]}"
    names="$(IFS=, && echo "${nodes[*]}")"
    deadline_s="${RLPOST_DEADLINE_S:-120}"
    address="${RLPOST_HEAD_ADDRESS:-$(address_of_head)}"
    [[ "$address" ]] || fail 2 "RLPOST_HEAD_ADDRESS: $head has no IPv4 address here; set it"
    # Three ports a job; a thousand jobs in a row have different ones. Ray's other ports are
    # whatever the system has free.
    port="${RLPOST_PORT_BASE:-$((20000 + SLURM_JOB_ID % 1000 * 3))}"
    logs="${RLPOST_LOGS:-$PWD/slurm-logs}/$SLURM_JOB_ID"
    stop="" driver="" ray="" ray_input=""
    mkdir -p "$logs"
    # Who reaches Ray's ports may run code as us; a token of the job's own prevents it.
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$logs/token"
    (umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
    say "job $job, run ${SLURM_RESTART_COUNT:-0} of it, on $names; logs in $logs"
}

# The address under which Slurm reaches the first node. On that node a name may lead to loopback,
# which is right only if all nodes are that host; if not, the way out of the host is.
address_of_head() {
    local all first
    all="$(for node in "${nodes[@]}"; do
        scontrol show node "$node" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p'
    done)"
    first="$(getent ahostsv4 "$(head -n1 <<<"$all")" | awk 'NR == 1 { print $1 }')"
    if [[ "$first" == 127.* && "$(sort -u <<<"$all" | wc -l)" -gt 1 ]]; then
        first="$(ip -4 route get 192.0.2.1 | sed -n 's/.* src \([^ ]*\).*/\1/p')"
    fi
    echo "$first"
}

# Equal, reachable and healthy nodes; otherwise the job ends here and says which are not. The
# preflight has a deadline of its own; the limit is for an srun that cannot even start it.
preflight() {
    limit_s=$((deadline_s + 60)) python_on_all --kill-on-bad-exit=1 --input=none -- \
        -m rlpost.cli.main doctor --node --nodes "$names" --address "$address" \
        --port "$((port + 2))" --ports "$port,$((port + 1))" --deadline-s "$deadline_s" \
        --disk "$logs" --disk "$RLPOST_TMP" &
    await "$!" || fail "$?" "the preflight failed"
}

# Ray lives until its standard input ends: when we close it, or are no more.
start_ray() {
    # shellcheck disable=SC2086 # RLPOST_RAY is several options
    coproc RAY {
        python_on_all --kill-on-bad-exit=0 -- \
            -m rlpost.cli.slurm node --head "$head" --address "$address" --port "$port" \
            --temp-dir "$RLPOST_TMP/rlpost-$SLURM_JOB_ID" --logs "$logs" \
            --deadline-s "$deadline_s" -- ${RLPOST_RAY:-} >>"$logs/ray.log" 2>&1
    }
    # Bash forgets the names of a coprocess that ended.
    ray="$RAY_PID" ray_input="${RAY[1]}"
    python_on_head -- -m rlpost.cli.slurm wait --address "$address:$port" --nodes "$names" \
        --deadline-s "$deadline_s" &
    await "$!" || fail "$?" "Ray did not start; $logs/ray.log says more"
}

run_driver() {
    local status=0
    say "rlpost $* cluster.address=$address:$port"
    python_on_head --job-name=rlpost-driver -- -m rlpost.cli.main "$@" \
        "cluster.address=$address:$port" &
    driver=$!
    await "$driver" || status=$?
    driver=""
    say "the driver ended with $status"
    exit "$status"
}

# USR1: the time limit comes near: save, and go back to the queue. TERM: save and end.
on_signal() {
    signalled=yes
    stop="${stop:-$1}"
    say "SIG$1: $([[ "$driver" ]] && echo "the driver is asked to save" || echo "nothing to save")"
    [[ "$driver" ]] || exit 130
    # Slurm itself tells every process when it ends a job, and a second word to the driver would
    # mean not to save.
    if [[ "$(state)" == RUNNING ]]; then
        signal_step rlpost-driver TERM
    fi
}

# Runs on exit, whatever the reason.
tear_down() {
    local status=$?
    trap '' USR1 TERM
    trap - EXIT
    set +e
    [[ -z "$driver" ]] || signal_step rlpost-driver KILL
    if [[ "$ray" ]]; then
        { exec {ray_input}>&-; } 2>/dev/null
        if ! timeout "$ENOUGH_S" tail --pid="$ray" -f /dev/null; then
            say "Ray does not end in $ENOUGH_S s: it is killed; $logs/ray.log says more"
            signal_step rlpost-ray KILL
        fi
    fi
    rm -f "$RAY_AUTH_TOKEN_PATH"
    if is_to_go_on "$status"; then
        say "saved; back to the queue"
        scontrol requeue "$job"
    fi
    exit "$status"
}

# Whether a driver that ended with $1 was interrupted only to be resumed.
is_to_go_on() {
    [[ "$1" == 130 || "$1" == 143 ]] && [[ "$(state)" == RUNNING ]] && {
        [[ "$stop" == USR1 ]] ||
            scontrol show job "$job" | grep -q ' PreemptTime=[0-9]'
    }
}

state() { squeue --noheader --jobs="$job" --format=%T; }

# signal_step <name> <signal>: Slurm lists a step a moment after its srun started.
signal_step() {
    local step="" end=$((SECONDS + 10))
    until step="$(squeue --noheader --steps --jobs="$job" --format='%i %j' |
        awk -v name="$1" '$2 == name { print $1 }')" && [[ "$step" ]]; do
        ((SECONDS < end)) || return 0
        sleep 0.2
    done
    # Slurm 22.05 reports an invalid job although the signal arrives; what arrived, the driver says.
    scancel --signal="$2" "$step" 2>>"$logs/scancel.log" || true
}

# Waits for the child $1, while traps run, and returns its status.
await() {
    local status=0 now
    signalled=yes
    while [[ "$signalled" ]]; do
        signalled="" now=0
        wait "$1" || now=$?
        # 127: it had ended, and was waited for, when the signal came.
        [[ "$now" == 127 ]] || status="$now"
    done
    return "$status"
}

# python_on_all [options of srun] -- <arguments>: a Python on every node of the job, sharing what
# the job has. In a process of its own, so that its number is srun's.
python_on_all() {
    local options=()
    while [[ "$1" != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    # shellcheck disable=SC2086 # options and a prefix of several words
    exec ${limit_s:+timeout --kill-after=10 "$limit_s"} srun --overlap --cpu-bind=none \
        --job-name=rlpost-ray --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" \
        --ntasks-per-node=1 ${RLPOST_SRUN:-} "${options[@]}" \
        ${RLPOST_PREFIX:-} "$RLPOST_PYTHON" "$@"
}

# python_on_head: the same on the first node.
python_on_head() {
    local nodes=("$SLURMD_NODENAME")
    python_on_all --nodelist="$SLURMD_NODENAME" --input=none "$@"
}
