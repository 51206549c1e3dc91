#!/bin/bash
# Runs in a machine of its own, as root (tests/systemd/machine): processes of the unit get no memory, or are killed by the
# kernel for want of it, while a target runs. Says what it sees on the serial port, at last RIGHT or WRONG, and powers the machine off.
unit=faultline.service socket=/run/faultline/vm.sock image=/image work=/run/test
say() { echo "$*" >/dev/ttyS0; }
wrong() {
  say "WRONG: $*"
  journalctl --no-pager -o cat -u $unit | tail -200 >/dev/ttyS0
  systemctl poweroff -ff
  sleep infinity
}
until_() {  # CONDITION WHAT
  for ((i = 0; i < 1200; i++)); do eval "$1" && return; sleep 0.1; done
  wrong "waited in vain: $2"
}
show() { systemctl show -P "$1" $unit; }
pid_of() { pgrep -o -x "$1"; }  # the comm, cut to 15 bytes
active() { [ "$(show ActiveState)" = active ]; }

# adjust BY GROUP: how readily the kernel kills each process of the group; -1000: never.
adjust() { for each in $(cat "$2/cgroup.procs"); do echo "$1" >/proc/$each/oom_score_adj; done 2>/dev/null; }

# The kernel kills the one of the unit whose adjustment says so, since for a moment what the unit may take is less than what
# it has: by as little as makes the kernel kill one, which gives caches of its own back first.
killed() { sed -n 's/^oom_kill //p' "$1/memory.events"; }
starve() {  # PID
  local group before less usual
  group=/sys/fs/cgroup$(show ControlGroup)
  usual=$(cat /proc/$1/oom_score_adj)
  adjust -1000 "$group"  # no other one, however little memory this one gives back
  echo 1000 >/proc/$1/oom_score_adj
  before=$(killed "$group")
  # A group whose main process was killed is made anew.
  for ((less = 128; less < 4096; less += 128)); do
    [ "$(killed "$group")" = "$before" ] && kill -0 "$1" 2>/dev/null || break
    echo $(($(cat "$group/memory.current") - less * 1024)) >"$group/memory.max"
    echo max >"$group/memory.max"
  done 2>/dev/null
  until_ "! kill -0 $1 2>/dev/null" "the kernel to kill process $1"
  adjust "$usual" "$group"
}

# The unit may take less than it has, and the kernel may kill none, until it has refused memory some times: to reads, threads,
# messages, new processes.
refused() { sed -n 's/^oom //p' "$1/memory.events"; }
press() { echo $(($(cat "$1/memory.current") - 512 * 1024)) >"$1/memory.max"; }
stint() {
  local group before
  group=/sys/fs/cgroup$(show ControlGroup)
  adjust -1000 "$group"
  before=$(refused "$group")
  until_ "press $group; [ \$(refused $group) -ge $((before + 20)) ]" "the kernel to refuse memory"
  echo max >"$group/memory.max"
}
serving() { [ "$(faultline status --json | tr -d ' \n' | grep -o '"alive":true' | wc -l)" = 2 ]; }
target_lives() { kill -0 "$reader" 2>/dev/null || grep -q '^{' $work/report || wrong "$1 has cost the target its life"; }

mkdir -p $work
head -c $((4096 * 4096)) /dev/urandom >$image
echo "FAULTLINE_OPTIONS=\"--shards 2 --no-prefault --keep-serving --socket $socket --memory $image --name vm\"" \
  >/etc/default/faultline
systemctl start faultline.socket $unit || wrong "the service does not start"
mkfifo $work/words
/usr/libexec/faultline-test/reader $socket $image 1 20000 <$work/words >$work/report &
reader=$!
exec 9>$work/words
until_ "grep -q ready $work/report" "the target's first page"
main=$(show MainPID) invocation=$(show InvocationID)

stint
until_ serving "all of the service to be up"
active && [ "$(show MainPID)" = "$main" ] && [ "$(show InvocationID)" = "$invocation" ] ||
  wrong "the unit was ended for want of memory: $(systemctl status --no-pager $unit)"
target_lives "want of memory"
say "no memory: waited for within the unit"

for name in faultline-shard faultline-coord; do
  before=$(pid_of $name)
  starve "$before"
  until_ "[ -n \"\$(pid_of $name)\" ] && [ \"\$(pid_of $name)\" != $before ]" "another $name"
  until_ serving "both shards to be up"
  active && [ "$(show MainPID)" = "$main" ] && [ "$(show InvocationID)" = "$invocation" ] ||
    wrong "the unit was ended for the sake of $name: $(systemctl status --no-pager $unit)"
  target_lives "the death of $name"
  say "$name: killed by the kernel, healed within the unit"
done
journalctl -u $unit --no-pager | grep -q "killed by the OOM killer" || wrong "systemd does not know of it"

# The main process itself: started anew, with all that it left.
starve "$main"
until_ "active && [ \"\$(show MainPID)\" != $main ]" "the service to be started anew"
say "main process: killed by the kernel, started anew"

# The control: systemd's own policy would have ended everything.
mkdir -p /run/systemd/system/$unit.d
printf '[Service]\nOOMPolicy=stop\nRestart=no\n' >/run/systemd/system/$unit.d/control.conf
systemctl daemon-reload
echo hurry >&9
until_ "grep -q '^{' $work/report" "the target's report"
say "target: $(grep '^{' $work/report)"
grep -q '"pages": 4096, "right": 4096' $work/report || wrong "the target read something else"
starve "$(pid_of faultline-shard)"
until_ "! active" "the end of the unit under OOMPolicy=stop"
say "control: $(show Result) with OOMPolicy=stop"
say RIGHT
systemctl poweroff -ff
