/* Events: a counter in shared memory that threads of any process wait on.  And the clocks.
 *
 * Knows four bytes of memory, and how to sleep until they change.  Must not know what is counted.
 * Any number of processes may count, wake and wait at once, and be killed at any instant.
 */
#ifndef PLOG_EVENTS_H
#define PLOG_EVENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base.h"

/* The portable build polls, and locks with flock; it can be asked for on Linux, to test it there.
 */
#if !defined(__linux__) && !defined(PLOG_PORTABLE)
#define PLOG_PORTABLE 1
#endif

/* Bit 0 says that somebody may sleep; the rest counts events, modulo 2**31. */
typedef struct {
    _Atomic uint32_t word;
} plog_events;

uint32_t plog_events_value(const plog_events *events);
/* Count one event; true when plog_events_wake is due (which may come later, outside a lock). */
bool plog_events_advance(plog_events *events);
void plog_events_wake(plog_events *events);
/* Both at once. */
void plog_events_notify(plog_events *events);
/* Wait until the value differs from `seen`: PLOG_OK, PLOG_TIMED_OUT, PLOG_INTERRUPTED by a signal,
 * or PLOG_SYSTEM.  Bound the wait, and look then at what is counted: see events.c on killed
 * writers. */
plog_status plog_events_wait(plog_events *events, uint32_t seen, int64_t deadline_ns);
/* Wait until one of `count` values differs from what was seen of it; else as plog_events_wait.
 * Several are waited for by Linux 5.16 and later; elsewhere they are polled, and so are very many.
 */
plog_status plog_events_wait_any(plog_events *const *events, const uint32_t *seen, size_t count,
                                 int64_t deadline_ns);

/* The clock of all deadlines: it neither jumps nor goes back. */
int64_t plog_monotonic_ns(void);
/* The same to some milliseconds, for who asks very often: 5 ns instead of 25. */
int64_t plog_coarse_monotonic_ns(void);
int64_t plog_wall_clock_ns(void);
struct timespec plog_timespec_from_ns(int64_t ns);

/* A poll starts with a pause too short to notice and ends with one that costs nothing.  Guessed. */
enum { PLOG_POLL_FIRST_NS = 50 * 1000, PLOG_POLL_LAST_NS = 1000 * 1000 };

/* Pause once, and longer the next time: PLOG_OK, PLOG_TIMED_OUT or PLOG_INTERRUPTED. */
plog_status plog_poll_pause(int64_t *pause_ns, int64_t deadline_ns);

#endif
