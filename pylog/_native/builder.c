/* Growing batches: see builder.h. */
#include "builder.h"

#include "record.h"

void plog_builder_begin(plog_builder *builder, uint8_t *data, size_t capacity)
{
    *builder = (plog_builder){.data = data, .capacity = capacity, .size = PLOG_BATCH_HEADER_BYTES};
}

plog_status plog_builder_add(plog_builder *builder, const plog_record_in *record)
{
    const int64_t base_timestamp =
        builder->count == 0 ? record->timestamp : builder->base_timestamp;
    /* Both are >= 0, so the difference cannot overflow. */
    const int64_t timestamp_delta = record->timestamp - base_timestamp;
    const size_t body_size = plog_record_body_size(record, timestamp_delta, builder->count);
    const size_t size = plog_record_size(body_size);
    const size_t limit = builder->capacity < INT32_MAX ? builder->capacity : INT32_MAX;
    if (builder->size > limit || size > limit - builder->size) {
        return PLOG_NO_ROOM;
    }
    (void)plog_record_write(builder->data + builder->size, record, timestamp_delta, builder->count,
                            body_size);
    if (builder->count == 0 || record->timestamp > builder->max_timestamp) {
        builder->max_timestamp = record->timestamp;
    }
    builder->base_timestamp = base_timestamp;
    builder->size += size;
    builder->count++;
    return PLOG_OK;
}

void plog_builder_seal(plog_builder *builder, plog_producer producer)
{
    assert(builder->count >= 1);
    const plog_batch_header header = {
        .size = builder->size,
        .leader_epoch = -1,
        .last_offset_delta = builder->count - 1,
        .base_timestamp = builder->base_timestamp,
        .max_timestamp = builder->max_timestamp,
        .producer_id = producer.id,
        .producer_epoch = producer.epoch,
        .base_sequence = producer.base_sequence,
        .count = builder->count,
    };
    plog_batch_seal(builder->data, &header);
}
