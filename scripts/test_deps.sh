#!/bin/sh
# Programs that single tests need beside Python: Chromium draws the report, Slurm runs the jobs
# of launch/slurm, ShellCheck reads the scripts, iproute2 makes networks. Debian's are installed when we may; otherwise
# what is missing is said, and those tests are skipped.
set -u
PATH="$PATH:/usr/sbin:/sbin" # Debian's daemons are there

has() { command -v "$1" >/dev/null 2>&1; }

missing() {
    has chromium || has chromium-browser || has google-chrome || echo chromium
    { has slurmctld && has slurmd && has sbatch; } || echo slurm-wlm
    has munged || echo munge
    has shellcheck || echo shellcheck
    has ip || echo iproute2
}

packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && has apt-get; then
    echo "rlpost set-up: installing Debian's ${packages}for the tests"
    # shellcheck disable=SC2086 # several names
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $packages >/dev/null
    packages=$(missing | tr '\n' ' ')
fi
if [ -n "$packages" ]; then
    echo "rlpost set-up: missing, and the tests that need them are skipped:" \
        "$packages(Debian: apt-get install $packages)" >&2
fi
exit 0
