/* Open files: the system calls. */
#include "mapping.h"

#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

plog_status plog_map(int fd, size_t len, int64_t position, bool writable, void **memory)
{
    const int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *mapped = mmap(NULL, len, access, MAP_SHARED, fd, (off_t)position);
    if (mapped == MAP_FAILED) {
        return PLOG_SYSTEM;
    }
    *memory = mapped;
    return PLOG_OK;
}

void plog_unmap(void *memory, size_t len)
{
    munmap(memory, len);
}

bool plog_write(int fd, const uint8_t *data, size_t len, int64_t position)
{
    return pwrite(fd, data, len, (off_t)position) == (ssize_t)len;
}

void plog_close(int fd)
{
    close(fd); /* what it may report of lost writes, the syncs before it reported */
}
