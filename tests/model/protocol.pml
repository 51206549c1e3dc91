/* The protocol of docs/protocol.md: a guest that gives a page back and touches it, a vCPU that touches it, NS shards,
 * a coordinator and its successors. Checked: no source bytes after the removal has returned (the assert), no lost
 * fault and no deadlock (invalid end states). tests/model/run checks it and every mistake below, each a -D switch. */
#ifndef NS
#define NS 2
#endif
#define NONE 0
#define SNAP 1
#define ZERO 2
byte pte = NONE;            /* kernel page table */
byte trk = SNAP;            /* tracker: source for the next copy (SNAP -> ZERO is one way) */
bool evq = 0;               /* REMOVE message queued, unread */
bool changing = 0;          /* ctx->mmap_changing */
bool fq = 0, fwait = 0;     /* fault message queued / some thread is waiting on the page */
bool gate = 0;              /* closed? */
bool slot[NS];              /* reader slots */
bool req[NS];               /* coordinator -> shard request (volatile RPC: lost with either end) */
bool jrnl = 0;              /* REMOVE landed in the shm journal by read() itself */
bool reading = 0;           /* intent: between gate close and open */
bool zapped = 0;            /* madvise returned */
byte crashes = 0;
#ifndef MAXCRASH
#define MAXCRASH 1
#endif
inline touch(){ do :: d_step{ pte==NONE && !fwait -> fwait=1; fq=1 } ; (pte!=NONE || !fwait) :: atomic{ pte==NONE && fwait -> (pte!=NONE||!fwait) } :: pte!=NONE -> break od }
active proctype Guest(){
  d_step{ changing=1; evq=1 }
  evq==0;               /* blocked until the event is read */
  changing=0;           /* caller woke */
  d_step{ pte=NONE; zapped=1 }
  touch();
  assert(pte!=SNAP);    /* I1: no stale data after DONTNEED returned */
}
active proctype Vcpu(){ touch() }
proctype Shard(byte id){ byte src; bool eagain;
end: do
  :: req[id] ->
again:
     atomic{ !gate -> slot[id]=1 }          /* robust slot mutex + gate re-check */
     if :: gate -> slot[id]=0; goto again :: else fi;
#ifdef KEEP_DECISION
     if :: !eagain -> src=trk :: else fi; eagain=0;
#else
     src=trk; eagain=0;
#endif
     if :: crashes<MAXCRASH -> crashes++; goto die :: skip fi;
     d_step{ if :: changing -> eagain=1 :: else -> if :: pte==NONE -> pte=src; fwait=0 :: else -> fwait=0 fi fi };
     if :: crashes<MAXCRASH -> crashes++; goto die :: skip fi;
#ifdef RETRY_INSIDE_LOCK
     if :: eagain -> !changing; slot[id]=0; goto again :: else -> slot[id]=0; req[id]=0 fi
#else
     slot[id]=0;
     if :: eagain -> goto again :: else -> req[id]=0 fi
#endif
  od;
die: /* robust: slot released only now; supervisor: drop request, UFFDIO_WAKE the range => fault is re-queued by the kernel */
#ifdef NO_WAKE_AFTER_SHARD
  atomic{ slot[id]=0; req[id]=0; run Shard(id) }
#else
  atomic{ slot[id]=0; req[id]=0; fwait=0; fq=0; run Shard(id) }
#endif
}
inline drain(){ for(i:0..(NS-1)){ !slot[i] } }
proctype Coord(){ byte i; bool isrm; byte k;
  /* ---- recovery prologue (successor) ---- */
  if :: reading ->
#ifdef JOURNAL
#ifdef OPEN_BEFORE_REPLAY
       gate=0; if :: jrnl -> trk=ZERO; jrnl=0 :: else fi;
#else
       drain(); if :: jrnl -> trk=ZERO; jrnl=0 :: else fi;
#endif
#endif
       reading=0; gate=0
     :: else fi;
  /* consumed-but-undispatched faults: UFFDIO_WAKE everything; also drop stale requests of the dead incarnation */
#ifndef NO_WAKE_AFTER_TAKEOVER
  atomic{ fwait=0; fq=0 }
#endif
end: do
  :: (fq||evq) ->
#ifdef LOCK_BEFORE_READ
     reading=1; gate=1; drain();
#endif
     isrm=0; k=0;
     /* read(): faults first, then events */
     d_step{ if :: fq -> fq=0; k=1 :: else -> if :: evq -> evq=0; isrm=1; jrnl=1 :: else fi fi };
     if :: crashes<MAXCRASH -> crashes++; goto die :: skip fi;
#ifndef LOCK_BEFORE_READ
     if :: isrm -> gate=1; drain(); trk=ZERO; jrnl=0; gate=0 :: else fi;
#else
     if :: isrm -> trk=ZERO; jrnl=0 :: else fi;
     reading=0; gate=0;
#endif
     if :: k==1 -> if :: crashes<MAXCRASH -> crashes++; goto die :: skip fi;
                   atomic{ if :: !req[0] -> req[0]=1 :: NS>1 && !req[NS-1] -> req[NS-1]=1 :: else -> fwait=0 /* both busy: wake = let the kernel requeue */ fi }
        :: else fi
  od;
#ifdef SURVIVOR_OPENS
die: gate=0; run Coord() }
#else
die: run Coord() }
#endif
init{ byte j; atomic{ for(j:0..(NS-1)){ run Shard(j) } run Coord() } }
