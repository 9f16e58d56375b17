/* A disk that fills, lies and dawdles, and a clock that jumps, for one process: LD_PRELOAD this beside it (see bad_world.py).
 *
 * The file named by TIDELOG_BAD_WORLD holds five little-endian 64-bit numbers and is mapped; whoever writes to it changes the world
 * at once:
 *   0  nanoseconds added to CLOCK_REALTIME
 *   1  bits of folders whose syncs fail with EIO        (1: the data folder, 2: the export folder)
 *   2  bits of folders in which writes fail with ENOSPC
 *   3  microseconds that each sync takes longer
 *   4  how many calls have been made to fail so far (counted here)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CLOCK, SYNC_FAILS, FULL, SLOW, FAILED };

static volatile int64_t *world;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TIDELOG_BAD_WORLD");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) world = map;
}

static int64_t said(int what) { return world ? world[what] : 0; }

/* 1: the data folder, 2: the export folder, 0: elsewhere. */
static int64_t place(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return (strstr(path, "/data/") || (length > 5 && !strcmp(path + length - 5, "/data")) ? 1 : 0) | (strstr(path, "/export/") ? 2 : 0);
}

static int fails(int what, int fd, int error) {
    int64_t folders = said(what);
    if (!folders || !(folders & place(fd))) return 0;
    __atomic_add_fetch((int64_t *)&world[FAILED], 1, __ATOMIC_RELAXED);
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int synced(int fd, int (*real)(int)) {
    int64_t slow = said(SLOW);
    if (slow > 0 && place(fd)) usleep((useconds_t)slow);
    return fails(SYNC_FAILS, fd, EIO) ? -1 : real(fd);
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

ssize_t write(int fd, const void *bytes, size_t size) { return fails(FULL, fd, ENOSPC) ? -1 : REAL(write)(fd, bytes, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return fails(FULL, fd, ENOSPC) ? -1 : REAL(writev)(fd, parts, count); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return fails(FULL, fd, ENOSPC) ? -1 : REAL(pwrite)(fd, bytes, size, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) { return fails(FULL, fd, ENOSPC) ? -1 : REAL(pwrite64)(fd, bytes, size, at); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = REAL(clock_gettime);
    int done = real(clock, now);
    int64_t ahead = clock == CLOCK_REALTIME ? said(CLOCK) : 0;
    if (!done && ahead) {
        int64_t all = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + ahead;
        now->tv_sec = all / 1000000000;
        now->tv_nsec = all % 1000000000;
    }
    return done;
}
