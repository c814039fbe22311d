/* What one payload per TCP connection costs at the least, on loopback.
 *
 *     floor [--payload BYTES] [--reply BYTES] [--conns N] [--secs S]
 *
 *     --payload BYTES  what each connection carries to the server (10000)
 *     --reply BYTES    what it carries back; 0: nothing (10000)
 *     --conns N        connections in progress at any time (64)
 *     --secs S         how long (3)
 *
 * Two processes on epoll, in a network namespace of their own, which needs root; kernel settings are left alone. Lengths are known
 * beforehand and the server closes first, so that ports of the client are not used up. Prints one line of JSON:
 *
 *     cpu_s_per_GB       user and system, both processes, by 10^9 bytes in both directions together
 *     conns_per_s, cpu_us_per_conn, MB_per_s (both directions together)
 *     failed             connections that ended before they had carried everything
 *     payload, reply, conns, secs
 *
 * Leaves with 1 if the system refuses something, with 2 if it does not understand an option.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BYTES = 1 << 20, MOST_CONNS = 10000, BATCH = 256, PATIENCE_MS = 10 };

struct options {
    long payload, reply, conns;
    double secs;
};

/* One side of a connection: what it still has to send and to receive. */
struct half {
    int fd;
    long unsent, missing;
};

struct tally {
    long done, failed;
};

static char bytes[MOST_BYTES];

static void check(bool fine, const char *what)
{
    if (!fine) {
        perror(what);
        exit(1);
    }
}

static void watch(int epoll, int operation, struct half *half, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = half};

    check(epoll_ctl(epoll, operation, half->fd, &event) == 0, "epoll_ctl");
}

/* Sends what the kernel takes; false if the connection broke. */
static bool give(struct half *half)
{
    while (half->unsent) {
        ssize_t sent = send(half->fd, bytes, half->unsent, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN;
        half->unsent -= sent;
    }
    return true;
}

/* Reads once; false at the end of the stream, or if the connection broke. */
static bool take(struct half *half)
{
    ssize_t got = recv(half->fd, bytes, sizeof bytes, 0);

    if (got > 0)
        half->missing -= got;
    return got > 0 || (got < 0 && errno == EAGAIN);
}

/* ---- The server: takes the payload, gives the reply, closes. */

static void welcome(int epoll, int listener, const struct options *options)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct half *half = malloc(sizeof *half);
        check(half != NULL, "malloc");
        *half = (struct half){fd, options->reply, options->payload};
        watch(epoll, EPOLL_CTL_ADD, half, EPOLLIN);
    }
}

/* False when the connection is over. */
static bool answer(int epoll, struct half *half)
{
    if (half->missing > 0) {
        if (!take(half))
            return false;
        if (half->missing > 0)
            return true;
        if (half->unsent && give(half) && half->unsent) {
            watch(epoll, EPOLL_CTL_MOD, half, EPOLLOUT);
            return true;
        }
        return false;
    }
    return give(half) && half->unsent;
}

static void serve(int listener, const struct options *options)
{
    struct half door = {.fd = listener};
    struct epoll_event ready[BATCH];
    int epoll = epoll_create1(0);

    check(epoll >= 0, "epoll_create1");
    watch(epoll, EPOLL_CTL_ADD, &door, EPOLLIN);
    for (;;) {
        int count = epoll_wait(epoll, ready, BATCH, -1);
        for (int i = 0; i < count; i++) {
            struct half *half = ready[i].data.ptr;
            if (half == &door) {
                welcome(epoll, listener, options);
            } else if (!answer(epoll, half)) {
                close(half->fd);
                free(half);
            }
        }
    }
}

/* ---- The client: gives the payload, takes the reply and the end. */

static void dial(int epoll, struct half *half, const struct sockaddr_in *server, const struct options *options)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    check(fd >= 0, "socket");
    check(connect(fd, (const struct sockaddr *)server, sizeof *server) == 0 || errno == EINPROGRESS, "connect");
    *half = (struct half){fd, options->payload, options->reply};
    watch(epoll, EPOLL_CTL_ADD, half, EPOLLOUT);
}

/* False when the connection is over. */
static bool ask(int epoll, struct half *half)
{
    if (half->unsent) {
        if (!give(half))
            return false;
        if (!half->unsent)
            watch(epoll, EPOLL_CTL_MOD, half, EPOLLIN);
        return true;
    }
    return take(half);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* Returns how long it took. */
static double load(const struct sockaddr_in *server, const struct options *options, struct tally *tally)
{
    static struct half halves[MOST_CONNS], *unused[MOST_CONNS];
    struct epoll_event ready[BATCH];
    int epoll = epoll_create1(0);
    long left = 0;
    double start = seconds(), now = start;

    check(epoll >= 0, "epoll_create1");
    while (left < options->conns) {
        unused[left] = &halves[left];
        left++;
    }
    while (now < start + options->secs) {
        /* All at once, so that the server is woken once for many. */
        while (left)
            dial(epoll, unused[--left], server, options);
        int count = epoll_wait(epoll, ready, BATCH, PATIENCE_MS);
        for (int i = 0; i < count; i++) {
            struct half *half = ready[i].data.ptr;
            if (ask(epoll, half))
                continue;
            if (half->unsent || half->missing)
                tally->failed++;
            else
                tally->done++;
            close(half->fd);
            unused[left++] = half;
        }
        now = seconds();
    }
    return now - start;
}

/* ---- The program. */

static double number(const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);

    if (*text == '\0' || *end != '\0' || !(value >= least && value <= most)) {
        fprintf(stderr, "floor: %s is not a number from %g to %g\n", text, least, most);
        exit(2);
    }
    return value;
}

static struct options parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"payload", required_argument, NULL, 'p'},
        {"reply", required_argument, NULL, 'r'},
        {"conns", required_argument, NULL, 'c'},
        {"secs", required_argument, NULL, 's'},
        {0},
    };
    struct options options = {10000, 10000, 64, 3};
    int option;

    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (option == 'p')
            options.payload = number(optarg, 1, MOST_BYTES);
        else if (option == 'r')
            options.reply = number(optarg, 0, MOST_BYTES);
        else if (option == 'c')
            options.conns = number(optarg, 1, MOST_CONNS);
        else if (option == 's')
            options.secs = number(optarg, 0.01, 3600);
        else
            exit(2);
    }
    if (optind < argc) {
        fprintf(stderr, "floor: unexpected %s\n", argv[optind]);
        exit(2);
    }
    return options;
}

/* Listens on a loopback that nothing else uses; returns the socket. */
static int listen_apart(struct sockaddr_in *address)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    socklen_t size = sizeof *address;

    check(unshare(CLONE_NEWNET) == 0, "unshare (it needs root)");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    check(listener >= 0 && ioctl(listener, SIOCSIFFLAGS, &loopback) == 0, "lo");
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    check(bind(listener, (struct sockaddr *)address, size) == 0 && listen(listener, MOST_CONNS) == 0, "listen");
    check(getsockname(listener, (struct sockaddr *)address, &size) == 0, "getsockname");
    return listener;
}

static double cpu(const struct rusage *usage)
{
    return usage->ru_utime.tv_sec + usage->ru_stime.tv_sec + (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) * 1e-6;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    struct tally tally = {0, 0};
    struct rusage ours, theirs;
    struct sockaddr_in address;
    int listener = listen_apart(&address), status;
    pid_t server = fork();

    check(server >= 0, "fork");
    if (server == 0)
        serve(listener, &options);
    close(listener);
    double took = load(&address, &options, &tally);
    kill(server, SIGTERM);
    check(wait4(server, &status, 0, &theirs) == server, "wait4");
    if (!WIFSIGNALED(status) || !tally.done) {
        fprintf(stderr, "floor: %s\n", tally.done ? "the server left early" : "nothing was carried");
        return 1;
    }
    getrusage(RUSAGE_SELF, &ours);
    double used = cpu(&ours) + cpu(&theirs), carried = tally.done * (double)(options.payload + options.reply);
    printf("{\"cpu_s_per_GB\": %.5g, \"conns_per_s\": %.5g, \"cpu_us_per_conn\": %.5g, \"MB_per_s\": %.5g, \"failed\": %ld, "
           "\"payload\": %ld, \"reply\": %ld, \"conns\": %ld, \"secs\": %.5g}\n",
           used / carried * 1e9, tally.done / took, used / tally.done * 1e6, carried / took / 1e6, tally.failed,
           options.payload, options.reply, options.conns, took);
    return 0;
}
