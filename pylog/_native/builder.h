/* A batch that grows record by record in the caller's memory, until it is sealed.
 *
 * Knows: records and headers of batches.  Must not know: who sends them, nor where they go.
 * Takes no lock, allocates nothing.
 */
#ifndef PLOG_BUILDER_H
#define PLOG_BUILDER_H

#include "batch.h"

typedef struct {
    uint8_t *data;         /* borrowed: the batch, its header left free until it is sealed */
    size_t capacity, size; /* size: header and records so far */
    int64_t base_timestamp, max_timestamp;
    int32_t count;
} plog_builder;

/* Who sends a batch; -1 in all three for nobody. */
typedef struct {
    int64_t id;
    int16_t epoch;
    int32_t base_sequence;
} plog_producer;

void plog_builder_begin(plog_builder *builder, uint8_t *data, size_t capacity);

/* Add a record.  NO_ROOM when it does not fit; nothing was changed then. */
plog_status plog_builder_add(plog_builder *builder, const plog_record_in *record);

/* Write the header: base offset 0, leader epoch -1, CRC filled in.  There is at least one record;
 * may be called again with another producer. */
void plog_builder_seal(plog_builder *builder, plog_producer producer);

#endif
