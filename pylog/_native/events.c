/* Events.  See the header for what they are.
 *
 * Why no wake-up is lost.  The word is the whole state: a count, and in bit 0 the sleepers flag. A
 * waiter sleeps only while the word is exactly (seen, flag set): the kernel compares the word and
 * enqueues the sleeper as one step with respect to wake.  So whoever counts an event after that
 * finds the flag in the word it changes, and wakes; and a waiter that comes after the change is not
 * put to sleep, for the word differs.  The flag is taken back in one place only, when a wake met
 * nobody: by a compare-exchange, followed by a second wake.  Who fell asleep between the two wakes
 * did so before the exchange, and the second wake finds him; who came after it met a word without
 * the flag, and sets it again.
 *
 * Processes that are killed.  A killed waiter leaves the flag set: one idle wake, which takes it
 * back.  A waker killed before its wake leaves the flag set, so the next event wakes; and the word
 * has changed, so sleepers that look again after a slice see it.  A writer killed before it counts
 * its event notifies nobody until the next locker does: waits are bounded, and look at the marks.
 */

#include "events.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>
#ifndef PLOG_PORTABLE
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* ---- clocks */

enum { NS_PER_SECOND = 1000000000 };

static int64_t read_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_SECOND + now.tv_nsec;
}

int64_t plog_monotonic_ns(void)
{
    return read_clock_ns(CLOCK_MONOTONIC);
}

int64_t plog_coarse_monotonic_ns(void)
{
#ifdef CLOCK_MONOTONIC_COARSE
    return read_clock_ns(CLOCK_MONOTONIC_COARSE);
#else
    return plog_monotonic_ns();
#endif
}

int64_t plog_wall_clock_ns(void)
{
    return read_clock_ns(CLOCK_REALTIME);
}

struct timespec plog_timespec_from_ns(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_SECOND),
                             .tv_nsec = (long)(ns % NS_PER_SECOND)};
}

enum { SLEEPERS = 1, ONE_EVENT = 2 };

uint32_t plog_events_value(const plog_events *events)
{
    return atomic_load(&events->word) / ONE_EVENT;
}

bool plog_events_advance(plog_events *events)
{
    return (atomic_fetch_add(&events->word, ONE_EVENT) & SLEEPERS) != 0;
}

void plog_events_notify(plog_events *events)
{
    if (plog_events_advance(events)) {
        plog_events_wake(events);
    }
}

plog_status plog_poll_pause(int64_t *pause_ns, int64_t deadline_ns)
{
    int64_t left = deadline_ns - plog_monotonic_ns();
    if (left <= 0) {
        return PLOG_TIMED_OUT;
    }
    struct timespec pause = plog_timespec_from_ns(*pause_ns < left ? *pause_ns : left);
    *pause_ns = *pause_ns * 2 < PLOG_POLL_LAST_NS ? *pause_ns * 2 : PLOG_POLL_LAST_NS;
    return nanosleep(&pause, NULL) == 0 ? PLOG_OK : PLOG_INTERRUPTED;
}

/* Whether one of the values differs from what was seen of it. */
static bool has_changed(plog_events *const *events, const uint32_t *seen, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (plog_events_value(events[i]) != seen[i]) {
            return true;
        }
    }
    return false;
}

static plog_status poll_any(plog_events *const *events, const uint32_t *seen, size_t count,
                            int64_t deadline_ns)
{
    int64_t pause_ns = PLOG_POLL_FIRST_NS;
    plog_status status = PLOG_OK;
    while (status == PLOG_OK && !has_changed(events, seen, count)) {
        status = plog_poll_pause(&pause_ns, deadline_ns);
    }
    return status;
}

#ifdef PLOG_PORTABLE

void plog_events_wake(plog_events *events)
{
    (void)events; /* waiters look by themselves */
}

plog_status plog_events_wait(plog_events *events, uint32_t seen, int64_t deadline_ns)
{
    return poll_any(&events, &seen, 1, deadline_ns);
}

plog_status plog_events_wait_any(plog_events *const *events, const uint32_t *seen, size_t count,
                                 int64_t deadline_ns)
{
    return poll_any(events, seen, count, deadline_ns);
}

#else

static long futex(plog_events *events, int operation, uint32_t value, const struct timespec *limit)
{
    return syscall(SYS_futex, &events->word, operation, value, limit, NULL, FUTEX_BITSET_MATCH_ANY);
}

void plog_events_wake(plog_events *events)
{
    if (futex(events, FUTEX_WAKE, INT_MAX, NULL) != 0) {
        return;
    }
    uint32_t word = atomic_load(&events->word);
    if ((word & SLEEPERS) != 0 &&
        atomic_compare_exchange_strong(&events->word, &word, word - SLEEPERS)) {
        futex(events, FUTEX_WAKE, INT_MAX, NULL);
    }
}

/* Set the sleepers flag: true with the word to sleep on, false when the value is not `seen`. */
static bool lie_down(plog_events *events, uint32_t seen, uint32_t *word)
{
    uint32_t now = atomic_load(&events->word);
    while (now / ONE_EVENT == seen) {
        if ((now & SLEEPERS) != 0 ||
            atomic_compare_exchange_weak(&events->word, &now, now | SLEEPERS)) {
            *word = now | SLEEPERS;
            return true;
        }
    }
    return false;
}

static plog_status status_of_errno(void)
{
    return errno == EINTR ? PLOG_INTERRUPTED : (errno == ETIMEDOUT ? PLOG_TIMED_OUT : PLOG_SYSTEM);
}

plog_status plog_events_wait(plog_events *events, uint32_t seen, int64_t deadline_ns)
{
    const struct timespec deadline = plog_timespec_from_ns(deadline_ns);
    uint32_t word;
    while (lie_down(events, seen, &word)) {
        /* The bitset form, unlike plain WAIT, takes a point of the monotonic clock. */
        if (futex(events, FUTEX_WAIT_BITSET, word, &deadline) != 0 && errno != EAGAIN) {
            return status_of_errno();
        }
    }
    return PLOG_OK;
}

/* What the kernel takes for several words, since 5.16; older headers do not know it. */
typedef struct {
    uint64_t value, address;
    uint32_t flags, reserved;
} futex_waiter;

enum { FUTEX_WAITV_CALL = 449, FUTEX_WAITV_MOST = 128, FUTEX_WAITER_32_BITS = 2 };

plog_status plog_events_wait_any(plog_events *const *events, const uint32_t *seen, size_t count,
                                 int64_t deadline_ns)
{
    if (count == 1) {
        return plog_events_wait(events[0], seen[0], deadline_ns);
    }
    if (count == 0 || count > FUTEX_WAITV_MOST) {
        return poll_any(events, seen, count, deadline_ns);
    }
    const struct timespec deadline = plog_timespec_from_ns(deadline_ns);
    futex_waiter waiters[FUTEX_WAITV_MOST];
    for (;;) {
        for (size_t i = 0; i < count; i++) {
            uint32_t word;
            if (!lie_down(events[i], seen[i], &word)) {
                return PLOG_OK;
            }
            waiters[i] = (futex_waiter){.value = word,
                                        .address = (uintptr_t)&events[i]->word,
                                        .flags = FUTEX_WAITER_32_BITS};
        }
        if (syscall(FUTEX_WAITV_CALL, waiters, count, 0, &deadline, CLOCK_MONOTONIC) < 0 &&
            errno != EAGAIN) {
            /* Kernels before 5.16 do not have it; some sandboxes forbid what they do not know. */
            return errno == ENOSYS || errno == EPERM ? poll_any(events, seen, count, deadline_ns)
                                                     : status_of_errno();
        }
    }
}

#endif
