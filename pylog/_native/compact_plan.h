/* What compaction's second pass knows of a batch: shared by the file that decides and the file that
 * writes.
 */
#ifndef PLOG_COMPACT_PLAN_H
#define PLOG_COMPACT_PLAN_H

#include "compact.h"

/* What was found out about a batch.  Its records are judged before one byte is written. */
typedef struct {
    plog_batch_header header;
    const uint8_t *records; /* borrowed, uncompressed; NULL: the batch is copied unseen */
    size_t len;
    uint8_t *kept;                          /* a byte for each record: 0 or 1 */
    int64_t first_timestamp, max_timestamp; /* of records that are kept */
    int32_t kept_count;
    bool keeps_tombstone;          /* whose older records are gone after this round */
    bool keeps_unmapped_tombstone; /* older records of its key may still be there */
} plog_batch_plan;

/* A record whose key was hashed and is not looked up yet. */
typedef struct {
    plog_key_hash hash;
    int64_t offset, timestamp;
    plog_batch_plan *plan;
    uint8_t *kept;
    bool has_key, is_tombstone;
} plog_candidate;

typedef struct {
    plog_candidate items[PLOG_KEY_GROUP];
    size_t count;
} plog_candidate_group;

/* Decide which records of a batch are kept.  OK or BAD_RECORD.  Some of them may wait in the group
 * when this returns, until plog_judge_group. */
plog_status plog_judge_batch(plog_filter *filter, plog_batch_plan *plan,
                             plog_candidate_group *group);

/* Decide about the records that wait. */
void plog_judge_group(plog_filter *filter, plog_candidate_group *group);

#endif
