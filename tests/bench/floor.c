// floor: what the kernel itself asks for the work that Goldleaf does, and nothing else.
//
// One process, <linux/dm-ioctl.h> and no library: the lower bound that tests/bench/run compares
// Goldleaf, dmsetup and lvm with. It makes no device nodes, keeps no record, takes no lock and reads
// no status back, so it may lose what a crash interrupts: a floor, not a rival.
//
//   floor pool    NAME DEVICE META_SECTORS      thin-pool NAME on linear NAME-tmeta and NAME-tdata
//   floor origin  NAME DEVICE                   read-only linear device over all of DEVICE
//   floor create  POOL ORIGIN SECTORS FIRST COUNT THREADS
//   floor snap    POOL FIRST COUNT THREADS      thin 1000000+i becomes a snapshot of thin i
//   floor delete  POOL FIRST COUNT THREADS      deactivates and deletes thin i
//   floor unsnap  POOL FIRST COUNT THREADS      deletes thin 1000000+i
//   floor append  FILE COUNT                    appends 4 KiB and fdatasyncs, COUNT times
//   floor rewrite FILE COUNT                    rewrites the first 4 KiB and fdatasyncs
//   floor remove  NAME                          removes one device
//
// Prints "op microseconds" a line for each operation, "op/step microseconds" for its parts, and
// "wall op count microseconds" for all of them together. Any failure ends it with exit code 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_SECTORS 128 // 64 KiB, what Goldleaf's pools allocate unless told otherwise
#define SNAP_BASE 1000000 // ids of snapshots start here
#define ROOM 4096         // bytes of one request and its reply
#define STEPS 4

static void fail(const char *format, ...)
{
	va_list args;
	fputs("floor: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

// One caller's way to the kernel: each thread has its own.
struct caller {
	int control;
	union {
		struct dm_ioctl head;
		char room[ROOM];
	} request;
};

static void open_control(struct caller *c)
{
	c->control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (c->control < 0)
		fail("/dev/mapper/control: %s", strerror(errno));
}

static void call(struct caller *c, unsigned long command, const char *what, const char *name)
{
	if (ioctl(c->control, command, &c->request) < 0)
		fail("%s %s: %s", what, name, strerror(errno));
}

static struct dm_ioctl *prepare(struct caller *c, const char *name, uint32_t flags)
{
	struct dm_ioctl *head = &c->request.head;
	memset(c->request.room, 0, sizeof *head);
	head->version[0] = DM_VERSION_MAJOR;
	head->data_size = ROOM;
	head->data_start = sizeof *head;
	head->flags = flags;
	snprintf(head->name, sizeof head->name, "%s", name);
	return head;
}

static dev_t dev_create(struct caller *c, const char *name)
{
	struct dm_ioctl *head = prepare(c, name, 0);
	snprintf(head->uuid, sizeof head->uuid, "FLOOR-%s", name);
	call(c, DM_DEV_CREATE, "create", name);
	return head->dev;
}

static dev_t dev_number(struct caller *c, const char *name)
{
	prepare(c, name, 0);
	call(c, DM_DEV_STATUS, "find", name);
	return c->request.head.dev;
}

static void table_load(struct caller *c, const char *name, uint32_t flags, uint64_t sectors,
		       const char *target, const char *parameters)
{
	struct dm_ioctl *head = prepare(c, name, flags);
	struct dm_target_spec *spec = (void *)(c->request.room + sizeof *head);
	memset(spec, 0, sizeof *spec);
	head->target_count = 1;
	spec->length = sectors;
	snprintf(spec->target_type, sizeof spec->target_type, "%s", target);
	strcpy((char *)(spec + 1), parameters); // ours, and always far shorter than ROOM
	call(c, DM_TABLE_LOAD, "load", name);
}

static void suspend(struct caller *c, const char *name)
{
	prepare(c, name, DM_SUSPEND_FLAG);
	call(c, DM_DEV_SUSPEND, "suspend", name);
}

static void resume(struct caller *c, const char *name, uint32_t flags)
{
	prepare(c, name, flags);
	call(c, DM_DEV_SUSPEND, "resume", name);
}

// Somebody who looks into every block device (udev, a scanner) may have it open just now. Waiting for
// that is no work of the kernel's, so it is said aloud: such a figure is not a floor.
static void dev_remove(struct caller *c, const char *name)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	for (int tries = 0;; tries++) {
		prepare(c, name, 0);
		if (!ioctl(c->control, DM_DEV_REMOVE, &c->request)) {
			if (tries)
				fprintf(stderr, "floor: %s was open elsewhere, %d tries\n", name, tries);
			return;
		}
		if (errno != EBUSY || tries == 1000)
			fail("remove %s: %s", name, strerror(errno));
		nanosleep(&pause, NULL);
	}
}

static void message(struct caller *c, const char *pool, const char *format, ...)
{
	struct dm_ioctl *head = prepare(c, pool, 0);
	struct dm_target_msg *msg = (void *)(c->request.room + sizeof *head);
	va_list args;
	msg->sector = 0;
	va_start(args, format);
	vsnprintf(msg->message, 256, format, args);
	va_end(args);
	call(c, DM_TARGET_MSG, msg->message, pool);
}

// The work of all threads, read-only once they run.
struct work {
	const char *op;
	const char *const *steps;
	void (*once)(struct caller *, const struct work *, unsigned id, double *took);
	const char *pool;
	dev_t pool_dev, origin_dev;
	uint64_t sectors;
	unsigned first, count, threads;
	double *took; // STEPS numbers for each operation
	pthread_barrier_t *start;
};

static const char *const create_steps[STEPS] = {"message", "create", "load", "resume"};
static const char *const snap_steps[STEPS] = {"suspend", "message", "resume"};
static const char *const delete_steps[STEPS] = {"remove", "message"};
static const char *const unsnap_steps[STEPS] = {"message"};

static double lap(double *since)
{
	double then = *since;
	*since = now_us();
	return *since - then;
}

static void thin_name(char *name, const struct work *w, unsigned id)
{
	snprintf(name, DM_NAME_LEN, "%s-%u", w->pool, id);
}

static void create_once(struct caller *c, const struct work *w, unsigned id, double *took)
{
	char name[DM_NAME_LEN], table[128];
	double t = now_us();
	thin_name(name, w, id);
	message(c, w->pool, "create_thin %u", id);
	took[0] = lap(&t);
	dev_create(c, name);
	took[1] = lap(&t);
	snprintf(table, sizeof table, "%u:%u %u %u:%u", major(w->pool_dev), minor(w->pool_dev), id,
		 major(w->origin_dev), minor(w->origin_dev));
	table_load(c, name, 0, w->sectors, "thin", table);
	took[2] = lap(&t);
	resume(c, name, 0);
	took[3] = lap(&t);
}

static void snap_once(struct caller *c, const struct work *w, unsigned id, double *took)
{
	char name[DM_NAME_LEN];
	double t = now_us();
	thin_name(name, w, id);
	suspend(c, name);
	took[0] = lap(&t);
	message(c, w->pool, "create_snap %u %u", SNAP_BASE + id, id);
	took[1] = lap(&t);
	resume(c, name, 0);
	took[2] = lap(&t);
}

static void delete_once(struct caller *c, const struct work *w, unsigned id, double *took)
{
	char name[DM_NAME_LEN];
	double t = now_us();
	thin_name(name, w, id);
	dev_remove(c, name);
	took[0] = lap(&t);
	message(c, w->pool, "delete %u", id);
	took[1] = lap(&t);
}

static void unsnap_once(struct caller *c, const struct work *w, unsigned id, double *took)
{
	double t = now_us();
	message(c, w->pool, "delete %u", SNAP_BASE + id);
	took[0] = lap(&t);
}

// One thread: every `threads`-th operation, from `first` on.
struct share {
	const struct work *work;
	unsigned first;
};

static void *run_share(void *argument)
{
	const struct share *share = argument;
	const struct work *w = share->work;
	struct caller c;
	open_control(&c);
	pthread_barrier_wait(w->start);
	for (unsigned i = share->first; i < w->count; i += w->threads)
		w->once(&c, w, w->first + i, w->took + (size_t)i * STEPS);
	close(c.control);
	return NULL;
}

static void report(const struct work *w, double wall)
{
	for (unsigned i = 0; i < w->count; i++) {
		const double *took = w->took + (size_t)i * STEPS;
		double sum = 0;
		for (int s = 0; s < STEPS && w->steps[s]; s++) {
			printf("%s/%s %.1f\n", w->op, w->steps[s], took[s]);
			sum += took[s];
		}
		printf("%s %.1f\n", w->op, sum);
	}
	printf("wall %s %u %.1f\n", w->op, w->count, wall);
}

static void run_work(struct work *w)
{
	pthread_t threads[w->threads];
	struct share shares[w->threads];
	pthread_barrier_t start;
	if (pthread_barrier_init(&start, NULL, w->threads + 1))
		fail("no barrier");
	w->start = &start;
	w->took = calloc((size_t)w->count * STEPS, sizeof *w->took);
	if (!w->took)
		fail("no memory");
	for (unsigned i = 0; i < w->threads; i++) {
		shares[i] = (struct share){w, i};
		if (pthread_create(&threads[i], NULL, run_share, &shares[i]))
			fail("no thread");
	}
	double t = now_us(); // before the barrier: once it opens, others may run first
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < w->threads; i++)
		pthread_join(threads[i], NULL);
	report(w, now_us() - t);
	free(w->took);
}

static uint64_t device_sectors(const char *path, dev_t *number)
{
	struct stat st;
	uint64_t bytes;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) || !S_ISBLK(st.st_mode) || ioctl(fd, BLKGETSIZE64, &bytes))
		fail("%s: not a block device that can be read", path);
	close(fd);
	*number = st.st_rdev;
	return bytes / 512;
}

static dev_t make_linear(struct caller *c, const char *name, dev_t below, uint64_t start,
			 uint64_t sectors, uint32_t flags)
{
	char table[64];
	dev_t made = dev_create(c, name);
	snprintf(table, sizeof table, "%u:%u %llu", major(below), minor(below),
		 (unsigned long long)start);
	table_load(c, name, flags, sectors, "linear", table);
	resume(c, name, flags);
	return made;
}

static void make_pool(struct caller *c, const char *pool, const char *device, uint64_t meta)
{
	char name[DM_NAME_LEN], table[128];
	char zeros[4096] = {0};
	dev_t below;
	uint64_t all = device_sectors(device, &below);
	int fd = open(device, O_RDWR | O_CLOEXEC);
	// A first block of zeros tells the kernel that the metadata is to be made.
	if (all <= meta || fd < 0 || pwrite(fd, zeros, sizeof zeros, 0) != sizeof zeros || fsync(fd))
		fail("%s: too small, or not writable", device);
	close(fd);
	snprintf(name, sizeof name, "%s-tmeta", pool);
	dev_t tmeta = make_linear(c, name, below, 0, meta, 0);
	snprintf(name, sizeof name, "%s-tdata", pool);
	dev_t tdata = make_linear(c, name, below, meta, all - meta, 0);
	dev_create(c, pool);
	snprintf(table, sizeof table, "%u:%u %u:%u %u 0 1 error_if_no_space", major(tmeta),
		 minor(tmeta), major(tdata), minor(tdata), BLOCK_SECTORS);
	table_load(c, pool, 0, (all - meta) / BLOCK_SECTORS * BLOCK_SECTORS, "thin-pool", table);
	resume(c, pool, 0);
}

static void sync_many(const char *op, const char *path, unsigned count, int flags)
{
	char block[4096];
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	memset(block, 'g', sizeof block);
	for (unsigned i = 0; i < count; i++) {
		double t = now_us();
		if (pwrite(fd, block, sizeof block, flags & O_APPEND ? i * 4096L : 0) != sizeof block
		    || fdatasync(fd))
			fail("%s: %s", path, strerror(errno));
		printf("%s %.1f\n", op, lap(&t));
	}
	close(fd);
}

static unsigned number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);
	if (!*text || *end || value > UINT32_MAX)
		fail("'%s' is not a number", text);
	return value;
}

static int is(const char *word, const char *want, int argc, int wanted)
{
	return !strcmp(word, want) && argc == wanted + 2;
}

int main(int argc, char **argv)
{
	struct caller c;
	struct work w = {0};
	const char *op = argc > 1 ? argv[1] : "";
	char **a = argv + 2;
	if (is(op, "append", argc, 2))
		return sync_many(op, a[0], number(a[1]), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND), 0;
	if (is(op, "rewrite", argc, 2))
		return sync_many(op, a[0], number(a[1]), O_WRONLY), 0;
	open_control(&c);
	if (is(op, "pool", argc, 3))
		return make_pool(&c, a[0], a[1], number(a[2])), 0;
	if (is(op, "remove", argc, 1))
		return dev_remove(&c, a[0]), 0;
	if (is(op, "origin", argc, 2)) {
		dev_t below;
		uint64_t sectors = device_sectors(a[1], &below);
		return make_linear(&c, a[0], below, 0, sectors, DM_READONLY_FLAG), 0;
	}
	if (is(op, "create", argc, 6)) {
		w.origin_dev = dev_number(&c, a[1]);
		w.sectors = number(a[2]);
		w.once = create_once, w.steps = create_steps;
		a[2] = a[0], a += 2;
	} else if (is(op, "snap", argc, 4)) {
		w.once = snap_once, w.steps = snap_steps;
	} else if (is(op, "delete", argc, 4)) {
		w.once = delete_once, w.steps = delete_steps;
	} else if (is(op, "unsnap", argc, 4)) {
		w.once = unsnap_once, w.steps = unsnap_steps;
	} else {
		fail("usage: see the head of tests/bench/floor.c");
	}
	w.op = op, w.pool = a[0];
	w.first = number(a[1]), w.count = number(a[2]), w.threads = number(a[3]);
	if (!w.threads || w.threads > 64)
		fail("1 to 64 threads");
	w.pool_dev = dev_number(&c, w.pool);
	run_work(&w);
	return 0;
}
