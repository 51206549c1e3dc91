/* The protocol of docs/protocol.md, as the code has it; docs/model.md ties each transition to its function.
 *
 * A target whose guest thread gives the pages GIVES back with one madvise and touches one page, and whose vCPU touches
 * one; NP pages; NS shards of one worker each; a coordinator and its successors. At most MAXCRASH processes of ours die and at
 * most MAXSTOP shards stand still, each at any step.
 *
 * Checked:  truth     the assertions in copy() and Guest
 *           liveness  no invalid end state, so no lost fault and no deadlock
 *
 * tests/model/run checks it. Each known mistake is a -D switch that this file names M_...
 */
#ifndef NP
#define NP 2
#endif
#ifndef NS
#define NS 2
#endif
#ifndef MAXCRASH
#define MAXCRASH 1
#endif
#ifndef MAXSTOP
#define MAXSTOP 0
#endif
#define OWNER(p) ((p) % NS)

/* A page's content in the target's page table. */
#define NONE 0
#define SNAP 1
#define ZERO 2
#define POISON 3
/* A page's state in the tracker. */
#define MISSING 0
#define FAULTED 1
#define REMOVED 2
#define RELEASED 3
/* The kernel's answer to a copy. */
#define DONE 0
#define EXISTS 1
#define REFUSED 2
#define ABSENT 3

#define HAS(set, p) ((set >> p) & 1)
#define BIT(p) (1 << p)
#define ALL ((1 << NP) - 1)
#ifndef GIVES
#define GIVES ALL
#endif

/* The kernel and the target. Sets of pages are bit masks. */
byte pte[NP];       /* NONE, SNAP, ZERO, POISON */
byte queued;        /* pages with a fault message that nobody has read */
byte waiting;       /* pages that threads wait for */
byte zapped;        /* pages that madvise has taken away */
byte giving;        /* pages whose removal has begun: zeros are right there */
bool eventQueued;   /* the REMOVE message, unread */
bool changing;      /* mmap_changing: copies are refused */

/* The segment: shared memory, so it outlives every process of ours. */
byte state[NP];     /* MISSING, FAULTED, REMOVED, RELEASED */
bool gate;          /* closed? */
bool slot[NS];      /* held? Robust: free as soon as its holder has exited */
bool journal;       /* the REMOVE, read and not yet published */

/* Requests of the coordinator to a shard: volatile, lost with either end. */
byte request[NS];
bool dead[NS];      /* has exited, and nobody has started its successor */
bool killed[NS];    /* SIGKILL sent */
bool frozen[NS];    /* runs no more, until it is killed */
byte crashes, stops;
#ifdef FAILS
bool failed;        /* the segment's header: nobody serves this restore any more */
#endif

#ifdef LETS_GO
byte letting;       /* the release of page 0, by a thread of the coordinator's: how far it is */
/* What may be released: a hole of the source, or (GIVEN) what the target has given up, once that is published. */
#if defined(M_RELEASES_DATA)
#define HOLE(p) false
#define RELEASABLE true
#elif defined(GIVEN)
#define HOLE(p) false
#define RELEASABLE HAS(removedToo, 0)
#else
#define HOLE(p) ((p) == 0)
#define RELEASABLE true
#endif
#else
#define HOLE(p) false
#endif

#if defined(GOES) || defined(LETS_GO)
#define LEAVES
byte away;          /* pages that are registered no more, so the kernel alone answers: mapped over by the target, or let go */
byte removedToo;    /* RELEASED pages that are zero for good: given up by the target, or let go */
#ifdef GOES
bool sighted;       /* a look of the coordinator's has found page 0 away; what it found is lost with the coordinator */
#endif
#define AWAY(p) HAS(away, p)
#define SETTLED(p, s) (state[p] == RELEASED -> RELEASED : s)
#define NOTE_REMOVED(p) removedToo = removedToo | BIT(p);
#define SOURCE_IS_RIGHT(p) (!HAS(zapped, p) && state[p] != RELEASED)
#else
#define AWAY(p) false
#define SETTLED(p, s) s
#define NOTE_REMOVED(p)
#define SOURCE_IS_RIGHT(p) (!HAS(zapped, p))
#endif

inline wake(pages) { d_step { waiting = waiting & ~(pages); queued = queued & ~(pages) } }

/* A thread touches page p: a fault is queued and waited for until somebody wakes the thread; then it looks again. */
inline touch(p) {
  do
  :: d_step { pte[p] == NONE && !AWAY(p) && !HAS(waiting, p) -> waiting = waiting | BIT(p); queued = queued | BIT(p) };
     !HAS(waiting, p)
  :: atomic { pte[p] == NONE && HAS(waiting, p) -> !HAS(waiting, p) }
  :: atomic { pte[p] != NONE -> break }
#ifdef LEAVES
  :: atomic { pte[p] == NONE && AWAY(p) && !HAS(waiting, p) -> assert(HAS(giving, p) || HOLE(p)); pte[p] = ZERO }
#endif
  od
}

inline pickPage(p) { if :: p = 0 :: NP > 1 -> p = NP - 1 fi }

active proctype Guest() {
  byte p;
  d_step { changing = 1; eventQueued = 1; giving = giving | GIVES };
  !eventQueued;   /* madvise sleeps until the event has been read */
  changing = 0;   /* the caller runs again: copies go through, though nothing is zapped yet */
  do
  :: atomic { p < NP && HAS(GIVES, p) -> pte[p] = NONE; zapped = zapped | BIT(p); p++ }
  :: atomic { p < NP && !HAS(GIVES, p) -> p++ }
  :: atomic { p == NP -> break }
  od;
  atomic { pickPage(p) };
  touch(p);
  assert(!HAS(GIVES, p) || pte[p] != SNAP)
}

active proctype Vcpu() {
  byte p;
  atomic { pickPage(p) };
  touch(p)
}

#ifdef STRANGER
/* Somebody else puts a page there and wakes nobody (UFFDIO_COPY_MODE_DONTWAKE by the target itself). */
active proctype Stranger() {
  d_step { if :: pte[0] == NONE && !giving -> pte[0] = SNAP :: else fi }
}
#endif

#ifdef GOES
/* Maps something else over page 0, of which no event comes, and may register that anew. Threads that wait go on waiting. */
active proctype Mapper() {
  d_step { pte[0] = NONE; away = BIT(0); giving = giving | BIT(0) };   /* what is new there begins as zeros */
  d_step { pte[0] = NONE; away = 0 }
}
#endif

#ifdef LETS_GO
/* UFFDIO_UNREGISTER wakes, and only then waits for the faults in flight; a fault that comes in between is not woken by it. */
active proctype Letter() {
end:
  do
  :: d_step { letting == 1 -> waiting = waiting & ~BIT(0); queued = queued & ~BIT(0); letting = 2 }
  :: d_step { letting == 2 -> away = away | BIT(0); letting = 3 }
#ifdef M_NO_WAKE_AFTER_UNREGISTER
  :: d_step { letting == 3 -> letting = 4 }
#else
  :: d_step { letting == 3 -> waiting = waiting & ~BIT(0); queued = queued & ~BIT(0); letting = 4 }
#endif
  od
}
#endif

/* UFFDIO_COPY, UFFDIO_ZEROPAGE or UFFDIO_POISON of one page, with DONTWAKE: one step. */
inline copy(p, answer) {
  d_step {
    if
    :: changing -> answer = REFUSED
#ifdef LEAVES
    :: !changing && AWAY(p) -> answer = ABSENT
#endif
    :: !changing && !AWAY(p) && pte[p] != NONE -> answer = EXISTS
    :: else ->
       if
       :: seen == MISSING && !HOLE(p) -> pte[p] = SNAP; assert(SOURCE_IS_RIGHT(p))
       :: seen == MISSING && HOLE(p) -> pte[p] = ZERO
#ifdef LEAVES
#ifdef M_GONE_READS_THE_SOURCE
       :: seen == RELEASED -> pte[p] = SNAP; assert(SOURCE_IS_RIGHT(p))
#else
       :: seen == RELEASED -> pte[p] = (HAS(removedToo, p) -> ZERO : POISON)
#endif
#endif
       :: else -> pte[p] = ZERO; assert(HAS(giving, p) || HOLE(p))
       fi;
       answer = DONE
    fi
  }
}

/* A step of ours may always be the last: a crash, or a kill under way that takes effect here. */
#define DIES atomic { killed[id] -> goto die } :: atomic { crashes < MAXCRASH -> crashes++; goto die }
/* Stands still (SIGSTOP, a stuck disk): nothing more until it is killed. */
#define STANDS atomic { stops < MAXSTOP -> stops++; frozen[id] = 1; goto still }

#ifdef AROUND
/* What a fault on page 0 does about page 1, its neighbour. */
#define ALONE 0     /* nothing: its bytes are not at hand */
#define BRINGS 1    /* copies it in the same section, behind page 0 */
#define BROUGHT 2
#define CUT 3       /* the run ended before it */
#ifdef M_AROUND_DECIDES_BEFORE
#define CHOOSES if :: around = (state[1] == MISSING -> BRINGS : CUT) :: around = ALONE fi;
#define NEIGHBOUR around
#else
#define CHOOSES if :: around = BRINGS :: around = ALONE fi;
#define NEIGHBOUR (around == BRINGS && state[1] == MISSING -> BRINGS : (around == ALONE -> ALONE : CUT))
#endif
#ifdef M_AROUND_STORES_ALL
#define NEIGHBOUR_IS_THERE (around == BROUGHT || around == CUT)
#else
#define NEIGHBOUR_IS_THERE (around == BROUGHT)
#endif
#define STORE_AROUND if :: NEIGHBOUR_IS_THERE -> state[1] = SETTLED(1, FAULTED) :: else fi;
#define DECIDE_AROUND around = (seen == MISSING -> NEIGHBOUR : ALONE);
#define GONE_BY_ITSELF (around != BRINGS)
#define MORE (around == BRINGS && answer == DONE)
#define WOKEN BIT(p) | ((around != ALONE) << 1)
#define FORGET_AROUND around = ALONE;
#else
#define CHOOSES
#define STORE_AROUND
#define DECIDE_AROUND
#define GONE_BY_ITSELF true
#define MORE false
#define WOKEN BIT(p)
#define FORGET_AROUND
#endif

proctype Shard(byte id) {
  byte p, seen, answer;
#ifdef AROUND
  byte around, second;
#endif
end:
  do
  :: atomic { HAS(request[id], 0) -> request[id] = request[id] & ~BIT(0); p = 0; CHOOSES goto fault }
#if NP > 1
  :: atomic { HAS(request[id], 1) -> request[id] = request[id] & ~BIT(1); p = 1; goto fault }
#endif
  :: DIES
  od;

fault:
#ifdef M_STATE_BEFORE_LOCK
  seen = state[p];
#endif
enter:
  if :: atomic { !gate -> slot[id] = 1 } :: DIES :: STANDS fi;
  if
  :: atomic { gate -> slot[id] = 0; goto enter }
  :: atomic { !gate ->
#if !defined(M_STATE_BEFORE_LOCK)
#ifdef M_KEEP_DECISION
       if :: answer != REFUSED -> seen = state[p] :: else fi;
#else
       seen = state[p];
#endif
#endif
       answer = DONE;
       DECIDE_AROUND
#ifdef FAILS
       if :: failed -> slot[id] = 0; goto finished :: else fi;
#endif
#ifdef M_FAULTED_IS_DONE
       if :: seen == FAULTED -> slot[id] = 0; goto finished :: else fi;
#endif
       skip }
  :: DIES :: STANDS
  fi;
again:
  if :: copy(p, answer) :: DIES :: STANDS fi;
#ifdef M_RETRY_INSIDE_LOCK
  if :: atomic { answer == REFUSED && !changing -> goto again } :: answer != REFUSED :: DIES fi;
#endif
store:
  if
#ifdef AROUND
  /* The same ioctl goes on with the next page; what is in its way leaves page 0 as copied. */
  :: atomic { MORE -> copy(1, second); around = (second == DONE -> BROUGHT : CUT); second = 0; goto store }
#ifdef LEAVES
  /* Of a run the kernel tells only that no one mapping holds it: its first page is answered by itself. */
  :: atomic { answer == ABSENT && around == BRINGS -> slot[id] = 0; around = ALONE; answer = DONE; goto enter }
#endif
#endif
  :: atomic { answer == REFUSED -> slot[id] = 0;
#ifdef M_KEEP_DECISION
       goto enter
#else
       request[id] = request[id] | BIT(p)   /* the page is kept, the decision is not */
#endif
     }
#ifdef LEAVES
  :: atomic { answer == ABSENT && GONE_BY_ITSELF -> state[p] = RELEASED; slot[id] = 0 }
#endif
  :: atomic { answer != REFUSED && answer != ABSENT && !MORE -> state[p] = SETTLED(p, FAULTED); STORE_AROUND slot[id] = 0 }
  :: DIES :: STANDS
  fi;
#ifdef M_NO_WAKE_AFTER_EEXIST
#define WAKES (answer == DONE)
#else
#ifdef M_NO_WAKE_AFTER_ENOENT
#define WAKES (answer != REFUSED && answer != ABSENT)
#else
#define WAKES (answer != REFUSED)
#endif
#endif
  if :: atomic { WAKES -> wake(WOKEN) } :: atomic { !(WAKES) -> skip } :: DIES fi;
finished:
  atomic { p = 0; seen = 0; answer = 0; FORGET_AROUND goto end };

still:
  killed[id];
die:   /* what it was asked is lost; the kernel frees its slot after its last system call */
  atomic { slot[id] = 0; request[id] = 0; killed[id] = 0; frozen[id] = 0; dead[id] = 1; p = 0; seen = 0; FORGET_AROUND answer = 0 };
  atomic { !dead[id] -> goto end }
}

#ifdef M_SURVIVOR_OPENS_GATE
#define GATE_OF_THE_DEAD gate = 0;
#else
#define GATE_OF_THE_DEAD
#endif
#ifdef M_PRIVATE_READ_BUFFER
#define READ_BY_THE_DEAD journal = 0;
#else
#define READ_BY_THE_DEAD
#endif
#ifdef GOES
#define SIGHT_OF_THE_DEAD sighted = 0;
#else
#define SIGHT_OF_THE_DEAD
#endif
#ifdef LETS_GO
/* A process has ended when its system calls have. */
#define RELEASE_OF_THE_DEAD if :: letting == 2 -> away = away | BIT(0) :: else fi; letting = 0;
#else
#define RELEASE_OF_THE_DEAD
#endif
#define FALLS atomic { crashes < MAXCRASH -> crashes++; i = 0; got = 0; SIGHT_OF_THE_DEAD RELEASE_OF_THE_DEAD GATE_OF_THE_DEAD READ_BY_THE_DEAD goto takeover }

#ifdef M_NO_WAKE_AFTER_SHARD
#define WAKE_OF_THE_NEW skip
#else
#define WAKE_OF_THE_NEW wake(ALL)
#endif

/* The gate is closed. Every slot has been free once, or its holder is killed at the deadline. */
inline drain() {
  do
  :: atomic { i < NS && !slot[i] -> i++ }
#ifdef M_FENCE_SKIPPED
  :: atomic { i < NS && slot[i] -> i++ }
#elif MAXSTOP > 0
  :: atomic { i < NS && slot[i] && !killed[i] -> killed[i] = 1 }
#endif
  :: atomic { i == NS -> i = 0; break }
  /* A slow drain leaves the loop free for other work. */
  :: atomic { dead[0] -> dead[0] = 0; WAKE_OF_THE_NEW }
#if NS > 1
  :: atomic { dead[1] -> dead[1] = 0; WAKE_OF_THE_NEW }
#endif
  :: FALLS
  od
}

/* One read(): message after message, faults before events, until it has them all or its buffer is full. */
inline readBatch() {
  do
  :: atomic { queued != 0 -> got = got | queued; queued = 0 }
  :: atomic { queued == 0 && eventQueued -> eventQueued = 0; journal = 1 }
  :: break
  od
}

inline publish() {
  do
  :: atomic { journal && i < NP && HAS(GIVES, i) -> NOTE_REMOVED(i) state[i] = SETTLED(i, REMOVED); i++ }
  :: atomic { journal && i < NP && !HAS(GIVES, i) -> i++ }
  :: atomic { !journal || i == NP -> i = 0; break }
  :: FALLS
  od
}

/* A shard that stands still outside a section is in nobody's way; it does not answer the ping. */
#if MAXSTOP == 0
#define WATCHDOG
#elif NS == 1
#define WATCHDOG :: atomic { frozen[0] && !killed[0] -> killed[0] = 1 }
#else
#define WATCHDOG :: atomic { frozen[0] && !killed[0] -> killed[0] = 1 } \
                 :: atomic { frozen[1] && !killed[1] -> killed[1] = 1 }
#endif

proctype Coordinator() {
  byte i, got;
end:
  do
  :: atomic { (queued != 0 || eventQueued) -> goto batch }
  :: atomic { dead[0] -> dead[0] = 0; goto attached }
#if NS > 1
  :: atomic { dead[1] -> dead[1] = 0; goto attached }
#endif
  WATCHDOG
#ifdef FAILS
  :: atomic { failed = 1; goto undertaker }
#endif
#ifdef GOES
  :: atomic { !sighted && AWAY(0) && !changing -> sighted = 1 }   /* in a thread of its own: marked at any time later */
  :: atomic { sighted && state[0] != RELEASED -> goto sight }
#endif
#ifdef LETS_GO
  :: atomic { letting == 0 && RELEASABLE && !(state[0] == RELEASED && HAS(removedToo, 0)) -> letting = 1 }
  :: atomic { letting == 4 -> goto released }
  /* Nothing is missing, and no removal is to come. */
  :: atomic { letting == 0 && state[0] != MISSING && state[NP - 1] != MISSING && giving == ALL && !eventQueued -> goto over }
#endif
  :: FALLS
  od;

#ifdef GOES
sight:      /* the write side, and no event is read */
#ifndef M_MARKS_AT_ONCE
  if :: gate = 1 :: FALLS fi;
  drain();
#endif
  if :: atomic { state[0] = RELEASED; gate = 0; goto end } :: FALLS fi;
#endif

#ifdef LETS_GO
released:   /* the write side, and no event is read */
  if :: gate = 1 :: FALLS fi;
  drain();
  if :: atomic { state[0] = RELEASED; removedToo = removedToo | BIT(0); letting = 0; gate = 0; goto end } :: FALLS fi;

over:       /* every range is unregistered, as above; nothing is read any more */
  if :: wake(ALL) :: FALLS fi;
  if :: away = ALL :: FALLS fi;
#ifndef M_NO_WAKE_AFTER_UNREGISTER
  if :: wake(ALL) :: FALLS fi;
#endif
end_over:
  do
  :: atomic { dead[0] -> dead[0] = 0 }
#if NS > 1
  :: atomic { dead[1] -> dead[1] = 0 }
#endif
  od;
#endif

attached:   /* a shard's successor runs and has the restore */
  if :: atomic { WAKE_OF_THE_NEW; goto end } :: FALLS fi;

batch:
#ifdef M_LOCK_AFTER_READ
  readBatch();
#endif
  if :: gate = 1 :: FALLS fi;
  drain();
#ifndef M_LOCK_AFTER_READ
  readBatch();
#endif
  publish();
  if :: atomic { journal = 0; gate = 0 } :: FALLS fi;
  do
  :: atomic { got != 0 ->
       i = (HAS(got, 0) -> 0 : 1);
       got = got & ~BIT(i);
       if
       :: !dead[OWNER(i)] -> request[OWNER(i)] = request[OWNER(i)] | BIT(i)
#ifdef ANY_SHARD
       :: !dead[1 - OWNER(i)] -> request[1 - OWNER(i)] = request[1 - OWNER(i)] | BIT(i)
#endif
       :: dead[OWNER(i)]
       fi;
       i = 0 }
  :: atomic { got == 0 -> goto end }
  :: FALLS
  od;

takeover:
#ifdef M_SKIP_DRAIN
  gate = 0;
#endif
#ifdef M_OPEN_BEFORE_REPLAY
  gate = 0;
#else
  if :: gate = 1 :: FALLS fi;
#endif
#ifndef M_SKIP_DRAIN
  drain();
#endif
#ifdef FAILS
  if :: atomic { failed -> goto undertaker } :: !failed fi;
#endif
#ifdef M_HALF_MARKED
  atomic { if :: state[0] == REMOVED -> journal = 0 :: else fi };
#endif
  publish();
  if :: atomic { journal = 0; gate = 0 } :: FALLS fi;
  /* Fresh rings to the shards that live: what lay in the old ones is lost, or was taken just before. */
  if
  :: atomic { request[0] = 0;
#if NS > 1
       request[1] = 0
#endif
     }
  :: skip
  :: FALLS
  fi;
#ifdef M_NO_WAKE_AFTER_TAKEOVER
  goto end;
#else
  if :: atomic { wake(ALL); goto end } :: FALLS fi;
#endif

#ifdef FAILS
undertaker:   /* every fault gets an error. It reads as well, so what began before `failed` was said must be over */
#ifndef M_UNDERTAKER_AT_ONCE
  gate = 1;
  drain();
#endif
  gate = 0;
  wake(ALL);
end_buried:
  do
  :: atomic { queued != 0 ->
       i = (HAS(queued, 0) -> 0 : 1);
       if :: !changing && pte[i] == NONE -> pte[i] = POISON :: else fi;
       wake(BIT(i));
       i = 0 }
  :: atomic { queued == 0 && eventQueued -> eventQueued = 0 }
  :: atomic { dead[0] -> dead[0] = 0 }
#if NS > 1
  :: atomic { dead[1] -> dead[1] = 0 }
#endif
  WATCHDOG
  :: FALLS
  od
#endif
}

init { byte j; atomic { for (j : 0 .. (NS - 1)) { run Shard(j) }; run Coordinator() } }
