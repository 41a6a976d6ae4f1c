/* The writable end of a partition: whole batches go into the mapped window of the active segment.
 *
 * Knows the marks, the window and the two indexes as memory, and the log's file as another way into
 * the same bytes.  Must not know how room is made: PLOG_NO_ROOM says that somebody has to.  Nothing
 * here allocates.
 *
 * The order of every write, which lets a process be killed anywhere: intent, bytes and index
 * entries, marks, no intent.  Nobody reads bytes or entries past the marks, so what was not yet
 * published does not exist; the next holder of the lock zeroes the bytes that the intent names.
 */
#ifndef PLOG_TAIL_H
#define PLOG_TAIL_H

#include "base.h"
#include "batch.h"
#include "shared_page.h"

typedef struct {
    uint8_t *data; /* borrowed */
    size_t len;
} plog_memory;

/* What the topic asks of its partition. */
typedef struct {
    int64_t max_message_bytes;
    int64_t segment_bytes;
    int64_t segment_ms;
    int64_t index_interval_bytes;
    int64_t timestamp_before_ms, timestamp_after_ms; /* how far from now a caller's may lie */
    bool visible_on_append;                          /* the high watermark moves with the log end */
    bool is_compressed;      /* by a library that is not the core's: single records are not taken */
    bool needs_key;          /* the topic is compacted: a single record without one is not taken */
    bool is_log_append_time; /* timestamps are the clock's, whatever the caller says */
    bool is_held; /* records are news when they are placed, for who brings them to replicas */
} plog_tail_rules;

typedef struct {
    plog_page *page;         /* borrowed */
    plog_events *log_events; /* borrowed; NULL for none */
    plog_events *settings;   /* borrowed; counts changes of settings; NULL: they never change */
    uint32_t settings_seen;  /* the count that `rules` belong to */
    plog_tail_rules rules;
    bool is_attached;       /* what follows counts only then */
    int64_t segment_serial; /* of the segment that these memories map */
    plog_memory window;     /* of the .log file, from window_position */
    int64_t window_position;
    int log_fd; /* borrowed: of the .log file, -1: all bytes go through the window */
    plog_memory index, timeindex; /* the whole files */
} plog_tail;

typedef struct {
    int64_t position;
    int64_t first_offset, end_offset;
} plog_placed;

/* Whether the rules are the topic's newest ones.  Decided again inside the lock by place and stamp,
 * which answer NOT_OPEN when they are not: who acts by newer settings has counted them before. */
bool plog_tail_is_current(const plog_tail *tail);

/* Append the whole batches in `data`, all or none, in one turn of the lock; stamps them in `data`.
 * The batches may carry any base offsets: they get the next ones, densely, in their order.
 * expected_offset: the log end offset that the caller relies on, or negative.  now: the clock's ms.
 * PLOG_OK: published and notified.  NO_ROOM, STALE, NOT_OPEN: nothing happened.  TIMED_OUT:
 * the lock was not free until deadline_ns (0: do not wait).  BAD_*, INCOMPLETE, ZEROS: `data` is
 * not whole batches.  SYSTEM: the lock failed, EDEADLK when this thread holds it. */
plog_status plog_tail_place(const plog_tail *tail, plog_memory data, int64_t expected_offset,
                            int64_t now, int64_t deadline_ns, plog_placed *placed);

/* Who says which offsets and leader epochs batches have.  TAKES_NEXT: nobody did; they get the next
 * offsets and the epoch of now.  KEEPS_OFFSETS: their leader; they lie at or after the end, also
 * with gaps, in epochs that do not fall (-1: the epoch of now), and settings do not matter. */
typedef enum { PLOG_TAKES_NEXT, PLOG_KEEPS_OFFSETS } plog_numbering;

/* For data that does not fit the window, or has its offsets: stamp it for its place and set the
 * intent.  The caller holds the lock, writes the data at placed->position, and publishes it.  Same
 * statuses, and NO_ROOM while the state is FULL: who makes room sees whether it still is.
 * BAD_OFFSET: a batch that keeps its offset or epoch may not lie here. */
plog_status plog_tail_stamp_locked(const plog_tail *tail, plog_memory data, int64_t expected_offset,
                                   plog_numbering numbering, plog_placed *placed);

/* Publish data that was stamped in this turn of the lock, with the same numbering, and stands in
 * the file.  BAD_OFFSET: it is not what was stamped. */
plog_status plog_tail_publish_locked(const plog_tail *tail, plog_memory data, int64_t now,
                                     plog_numbering numbering);

#endif
