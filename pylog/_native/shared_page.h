/* A partition's shared page: marks, lock, intent and wake-up word in 4096 bytes of shared memory.
 *
 * Knows the layout of the page and how processes that share it take turns.  Must not know files,
 * segments or Python.  Everything in the page can be recomputed from the log file.
 *
 * Rules.  Marks are read by anybody at any time.  They are written, like the intent, by the holder
 * of the lock only.  A process may be killed between any two instructions: see publish and intent.
 */
#ifndef PLOG_SHARED_PAGE_H
#define PLOG_SHARED_PAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base.h"
#include "events.h"

enum { PLOG_PAGE_BYTES = 4096, PLOG_IDENTITY_BYTES = 256, PLOG_PAGE_VERSION = 3 };

#define PLOG_UNKNOWN_TIME INT64_MAX

typedef enum { PLOG_STATE_OPEN = 0, PLOG_STATE_FULL = 1, PLOG_STATE_FAILED = 2 } plog_state;

/* The one list of marks: the struct, the names in Python and the layout of the page follow it.
 * Offsets and positions as everywhere; *_entries and *_allocated of the indexes count entries;
 * allocated is the position up to which the log file has its bytes on disk reserved; append_time is
 * the log's clock at the latest append, or PLOG_UNKNOWN_TIME, which is later than any, while that
 * clock is behind what it was (ms; -1: nothing was appended); is_held is 1 while the high watermark
 * follows neither appends nor syncs, but who knows what the log's replicas have; truncated_at is
 * the generation by which the end of the log was cut off last, 0 for never. */
#define PLOG_EACH_MARK(MARK)                                                                       \
    MARK(log_start_offset)                                                                         \
    MARK(high_watermark)                                                                           \
    MARK(log_end_offset)                                                                           \
    MARK(durable_offset)                                                                           \
    MARK(base_offset)                                                                              \
    MARK(segment_serial)                                                                           \
    MARK(generation)                                                                               \
    MARK(position)                                                                                 \
    MARK(allocated)                                                                                \
    MARK(index_entries)                                                                            \
    MARK(index_allocated)                                                                          \
    MARK(time_entries)                                                                             \
    MARK(time_allocated)                                                                           \
    MARK(bytes_since_index_entry)                                                                  \
    MARK(first_timestamp)                                                                          \
    MARK(max_timestamp)                                                                            \
    MARK(max_timestamp_offset)                                                                     \
    MARK(last_time_entry)                                                                          \
    MARK(leader_epoch)                                                                             \
    MARK(state)                                                                                    \
    MARK(flags)                                                                                    \
    MARK(append_time)                                                                              \
    MARK(is_held)                                                                                  \
    MARK(truncated_at)

#define PLOG_COUNT_MARK(name) +1
enum { PLOG_MARK_COUNT = 0 PLOG_EACH_MARK(PLOG_COUNT_MARK) };
#undef PLOG_COUNT_MARK

#define PLOG_DECLARE_MARK(name) int64_t name;
typedef union {
    struct {
        PLOG_EACH_MARK(PLOG_DECLARE_MARK)
    };
    int64_t fields[PLOG_MARK_COUNT];
} plog_marks;
#undef PLOG_DECLARE_MARK

static_assert(sizeof(plog_marks) == PLOG_MARK_COUNT * sizeof(int64_t), "marks have no padding");

/* Whether the lock needs the page's file to stay open. */
#ifdef PLOG_PORTABLE
enum { PLOG_LOCKS_BY_DESCRIPTOR = 1 };
#else
enum { PLOG_LOCKS_BY_DESCRIPTOR = 0 };
#endif

typedef struct plog_page_memory plog_page_memory;

typedef struct {
    plog_page_memory *memory; /* borrowed: the caller keeps it mapped and writable */
#ifdef PLOG_PORTABLE
    int lock_fd; /* borrowed; -1: only threads that share this struct are kept apart */
    pthread_mutex_t threads;
    _Atomic uint64_t holder; /* the plog_thread_id that holds the lock through this struct, or 0 */
#endif
} plog_page;

/* Attach to page memory of `len` bytes.  lock_fd: used by the portable build only, -1 for none.
 * Returns PLOG_BAD_LENGTH when the memory is too small or not aligned to 16 bytes. */
plog_status plog_page_open(plog_page *page, void *memory, size_t len, int lock_fd);
/* Detach.  The lock must not be held, or be waited for, through this struct. */
void plog_page_close(plog_page *page);

/* Wipe the page and make it anew.  Only for a caller who knows that nobody else has it open.
 * Returns PLOG_BAD_LENGTH when the identity is longer than PLOG_IDENTITY_BYTES. */
plog_status plog_page_initialize(plog_page *page, const uint8_t *identity, size_t len,
                                 const plog_marks *marks);
bool plog_page_is_valid(const plog_page *page);
const uint8_t *plog_page_identity(const plog_page *page, size_t *len);

/* The bytes that the lock of this build takes in the page, 0 when the lock is not in the page: part
 * of the tag that keeps builds with different locks apart. */
size_t plog_page_lock_bytes(void);

/* Copy the published marks: a set that was published at once, never a mix.  Lock-free. */
void plog_page_marks(const plog_page *page, plog_marks *out);
/* The same, for the holder of the lock: nobody else writes marks meanwhile. */
void plog_page_marks_locked(const plog_page *page, plog_marks *out);

/* Ask for the lines that whoever takes the lock and writes marks will need. */
void plog_page_prefetch(const plog_page *page);

/* Take the lock; deadline_ns of plog_monotonic_ns, 0: do not wait.  PLOG_OK and PLOG_OWNER_DIED: it
 * is held (in the latter case by the next one after a holder who died).  PLOG_TIMED_OUT: not held.
 * PLOG_SYSTEM: errno is EDEADLK when this thread holds it already. */
plog_status plog_page_lock(plog_page *page, int64_t deadline_ns);
plog_status plog_page_unlock(plog_page *page);

/* Make `marks` the published ones.  The caller holds the lock. */
void plog_page_publish_locked(plog_page *page, const plog_marks *marks);

/* The byte range of the log file that the holder of the lock is about to fill.  end <= start: none.
 */
void plog_page_intent(const plog_page *page, int64_t *start, int64_t *end);
void plog_page_set_intent_locked(plog_page *page, int64_t start, int64_t end);
void plog_page_clear_intent_locked(plog_page *page);

plog_events *plog_page_events(const plog_page *page);

/* A number that no other living thread of this host has, also not a forked child's. */
uint64_t plog_thread_id(void);

#endif
