/* A folder that fails, hangs, dawdles, is full or read only, for one process; and a death at a chosen step: LD_PRELOAD this beside it
 * (see bad_folder.py).
 *
 * The file named by TIDELOG_BAD_FOLDER is mapped. It holds little-endian 64-bit numbers, and from byte 512 on the folder's path:
 *   0  what is wrong with all of the folder (the modes below; 0: nothing)
 *   1  steps made so far (counted here): calls that change something below the folder, or make it durable
 *   2  the step at which something happens once (0: at none), and 3: what (a mode)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRONG, STEPS, AT, HOW };
/* FAILS: EIO, nothing was done. FULL: ENOSPC. READ_ONLY: EROFS. HANGS: until it is told otherwise. SLOW. LOSES: it was done, EIO is told.
 * KILLS: it was done, and the process dies before it learns so. */
enum { WELL, FAILS, FULL, READ_ONLY, HANGS, SLOW, LOSES, KILLS };
/* What a call does: it only looks, it adds or makes something, it takes something away, it makes something durable. */
enum { LOOKS, ADDS, TAKES, SYNCS };

static volatile int64_t *bad;
static const char *folder;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TIDELOG_BAD_FOLDER");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    folder = (const char *)map + 512;
    bad = map;
}

static int below(const char *path) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || path[length] == 0);
}

static int path_there(const char *path) { return bad && path && below(path); }

static int fd_there(int fd) {
    char link[64], path[PATH_MAX];
    if (!bad) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static int at_there(int dir, const char *path) { return path && path[0] == '/' ? path_there(path) : fd_there(dir); }

/* What happens to this call: a mode. */
static int64_t begun(int kind) {
    int64_t step = kind == LOOKS ? 0 : __atomic_add_fetch((int64_t *)&bad[STEPS], 1, __ATOMIC_SEQ_CST);
    int64_t mode = step && step == bad[AT] ? bad[HOW] : bad[WRONG];
    while (mode == HANGS && bad[WRONG] == HANGS) usleep(5000);
    if (mode == SLOW) usleep(20000);
    return mode;
}

/* The error that is told instead of doing it, or 0. */
static int refused(int64_t mode, int kind) {
    if (mode == FAILS) return EIO;
    if (mode == FULL && kind == ADDS) return ENOSPC;
    if (mode == READ_ONLY && (kind == ADDS || kind == TAKES)) return EROFS;
    return 0;
}

static long ended(int64_t mode, int kind, long done) {
    if (kind == LOOKS) return done;
    if (mode == KILLS) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (mode == LOSES) {
        errno = EIO;
        return -1;
    }
    return done;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define STEP(there, kind, call) do {                                                                                                   \
        if (!(there)) return call;                                                                                                     \
        int64_t mode = begun(kind);                                                                                                    \
        int error = refused(mode, kind);                                                                                               \
        if (error) { errno = error; return -1; }                                                                                       \
        return ended(mode, kind, call);                                                                                                \
    } while (0)

static int opens(int flags) { return flags & O_ACCMODE || flags & (O_CREAT | O_TRUNC) ? ADDS : LOOKS; }

/* The descriptor of a lost answer is lost too; nobody minds. */
#define OPEN(name)                                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                                       \
        va_list more;                                                                                                                  \
        va_start(more, flags);                                                                                                         \
        mode_t bits = va_arg(more, mode_t);                                                                                            \
        va_end(more);                                                                                                                  \
        STEP(path_there(path), opens(flags), REAL(name)(path, flags, bits));                                                           \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *bytes, size_t size) { STEP(fd_there(fd), ADDS, REAL(write)(fd, bytes, size)); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { STEP(fd_there(fd), ADDS, REAL(pwrite)(fd, bytes, size, at)); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) { STEP(fd_there(fd), ADDS, REAL(pwrite64)(fd, bytes, size, at)); }
ssize_t writev(int fd, const struct iovec *parts, int count) { STEP(fd_there(fd), ADDS, REAL(writev)(fd, parts, count)); }
int fsync(int fd) { STEP(fd_there(fd), SYNCS, REAL(fsync)(fd)); }
int fdatasync(int fd) { STEP(fd_there(fd), SYNCS, REAL(fdatasync)(fd)); }
int rename(const char *from, const char *to) { STEP(path_there(to), ADDS, REAL(rename)(from, to)); }
int mkdir(const char *path, mode_t bits) { STEP(path_there(path), ADDS, REAL(mkdir)(path, bits)); }
int unlink(const char *path) { STEP(path_there(path), TAKES, REAL(unlink)(path)); }
int rmdir(const char *path) { STEP(path_there(path), TAKES, REAL(rmdir)(path)); }
int unlinkat(int dir, const char *path, int flags) { STEP(at_there(dir, path), TAKES, REAL(unlinkat)(dir, path, flags)); }
