#!/bin/sh
# The first process of a guest of ci/platforms.sh: runs the programs that /programs names, one after
# the other, and prints what came of each on the console. All of one that failed is printed.
export PATH=/bin HOME=/root TMPDIR=/tmp
# How long tests wait, how slow all is, and how often what is tried at random is tried.
export CROSSPROC_PATIENCE=120 CROSSPROC_SLOWNESS=20
export KILLS=10 HANDOVERS=2000 CHAOS_KILLS=100 HOSTILE_FRAMES=10000
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/null ] && [ -e /dev/fd ] || mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up
# As service managers have them.
ulimit -Hn 524288
ulimit -Sn 1024
limit=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^limit=//p')
only=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^only=//p')
# Arguments: not emulated.
[ -z "$1" ] || { limit=${1#limit=}; only=${2#only=}; export CROSSPROC_SLOWNESS=1; }

echo "== kernel $(uname -r)"
clock=/sys/devices/system/clocksource/clocksource0/current_clocksource
cd /src
while read -r name path; do
    case ",${only:-$name}," in *",$name,"*) ;; *) continue ;; esac
    # Where it is emulated, a single step takes so long that the clock ticks before a thread has
    # read it, and the vDSO reads it once more, for ever. By another clock it asks the kernel: one
    # step.
    [ "$name" != kill ] || [ $$ != 1 ] || [ -n "$1" ] || echo acpi_pm >$clock
    began=$(date +%s)
    # In a session, as programs are everywhere but below init.
    setsid timeout -s KILL "$limit" "$path" >/tmp/out 2>&1 </dev/null
    code=$?
    seconds=$(($(date +%s) - began))
    # Such as: test result: ok. 12 passed; 0 failed; 1 ignored; ...
    counts=$(sed -nE \
        's/^test result: .*\. ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' \
        /tmp/out | tail -n 1)
    result=passed
    [ $code = 0 ] || result=failed
    [ $code != 137 ] || [ $seconds -lt "$limit" ] || result=late
    ! grep -q 'cannot run' /tmp/out || result=left
    grep "^test .* ignored, " /tmp/out
    if [ $result != passed ]; then
        grep '^test .*FAILED$' /tmp/out
        sed -e 's/^/  /' -e '/^test .* ok$/d' /tmp/out | tail -c 20000
        # Once more with what their children print, which the test program keeps to itself. That
        # changes the result of none.
        for test in $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' /tmp/out | head -n 5); do
            setsid timeout -s KILL 120 "$path" --exact --nocapture "$test" </dev/null 2>&1 |
                sed 's/^/  again: /' | tail -c 5000
        done
    fi
    echo "== program $name $result ${counts:-0 0 0} $seconds $code"
    rm -rf /tmp/* /target/*/tmp/*
done </programs
echo "== done"
[ $$ != 1 ] || [ -n "$1" ] || poweroff -f
