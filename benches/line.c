/* An emulated line between two TUN devices. What is read from one is written to the other: late, in turn, or never.

       line CLIENT_FD SERVER_FD [NAME=NUMBER | outage=START:END]...

   The descriptors are open, non-blocking TUN devices without packet information. "up" is what the client's device sends, "down"
   what the server's does. A packet's journey: outage, limit of its flow, policer of its flow, queue at the line's rate, loss,
   delay, delivery. A packet that is dropped on its way has used whatever comes before.

   up.NAME, down.NAME:
     delay, jitter       seconds; the jitter is uniform, at most so much less or more
     reorder             1: jitter may change the order; 0: no packet overtakes another
     loss                share of the packets, each on its own
     enter, leave, lost  bursts of loss after Gilbert and Elliott (Bell System Technical Journal 39 and 42): the chance per packet
                         that a burst begins, that it ends, and the share lost meanwhile
     rate, queue         bytes per second, and bytes that wait for their turn at most; without a rate there is no queue
     flow_rate, flow_burst  a token bucket for each flow, in bytes per second and bytes: what exceeds it is dropped
   flow_limit, flow_reset  bytes, both ways together, after which a TCP flow is frozen, or reset (1)
   seed                    of all chances
   outage=START:END        seconds on the outage clock while nothing passes; may be given again

   Sizes are those of IP packets. A flow is what has the same addresses, ports and protocol; only IPv4 passes. Commands on stdin,
   a byte each: 'c' prints the counters as a line of JSON, 'z' sets the outage clock to zero. It ends with stdin or SIGTERM, and
   prints the counters once more. */

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { UP, DOWN, WAYS };
enum { OUTAGE, LIMIT, POLICED, QUEUE, LOSS, FULL, FOREIGN, CAUSES };
enum { ICMP = 1, TCP = 6, UDP = 17 };
enum { SYN = 2, RST = 4, ACK = 16 };
enum { IP_HEADER = 20, TCP_HEADER = 20, LARGEST = 65536 };

static const char *const way_names[WAYS] = {"up", "down"};
static const char *const cause_names[CAUSES] = {"outage", "limit", "policed", "queue", "loss", "full", "foreign"};

#define SECOND 1000000000LL
#define REST 200000LL                /* between two wake-ups at least: so under load each serves several packets */
#define BATCH 64                     /* packets read in a row, before deliveries have their turn */
#define MOST_HELD (64LL << 20)       /* bytes on their way in one direction, for the sake of memory */
#define FORGOTTEN (300 * SECOND)     /* a flow that is silent for so long is another one afterwards */
#define LATENESS_STEPS 20000         /* of a microsecond */
#define MOST_OUTAGES 64
#define FLOW_HEADS 65536

struct packet {
    int way;
    int size;
    uint8_t data[];
};

struct way {
    /* settings */
    double delay, jitter, reorder, loss, enter, leave, lost, rate, queue, flow_rate, flow_burst;
    /* state */
    int from, to;
    uint64_t chance;                 /* of loss: jitter has its own, so that it does not change what is lost */
    uint64_t jitter_chance;
    int in_burst;
    int64_t busy_until;
    int64_t last_due;
    int64_t held;
    /* counters */
    long long packets, bytes, delivered, delivered_bytes, unwritten, dropped[CAUSES];
    long long lateness[LATENESS_STEPS + 1];
    int64_t latest;
};

struct flow_key {
    uint32_t address[2];
    uint16_t port[2];
    uint32_t protocol;
};

struct flow {
    struct flow *next;
    struct flow_key key;
    uint32_t first_number;           /* of the SYN */
    int over;
    int64_t bytes;
    int64_t seen;
    int64_t filled[WAYS];
    double tokens[WAYS];
};

static struct way ways[WAYS];
static double flow_limit, flow_reset, seed = 1;
static struct { double start, end; } outages[MOST_OUTAGES];
static int outage_count;
static int64_t outage_clock;
static struct flow *flows[FLOW_HEADS];
static long long tcp_flows, udp_flows, limited_flows;
static volatile sig_atomic_t stopped;

static void fail(const char *what) {
    fprintf(stderr, "line: %s\n", what);
    exit(2);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* --- Chances: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) --- */

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    return z ^ z >> 31;
}

/* 0 <= result < 1 */
static double draw(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15ULL;
    return (double)(mix(*state) >> 11) * 0x1p-53;
}

/* --- Packets on their way: a heap by time of delivery, then by turn --- */

struct entry {
    int64_t due;
    uint64_t turn;
    struct packet *packet;
};

static struct entry *heap;
static size_t heap_size, heap_room;
static uint64_t turns;

static int before(const struct entry *a, const struct entry *b) {
    return a->due != b->due ? a->due < b->due : a->turn < b->turn;
}

static void push(int64_t due, struct packet *packet) {
    struct entry added = {due, turns++, packet};
    size_t at = heap_size++;
    if (heap_size > heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        heap = realloc(heap, heap_room * sizeof *heap);
        if (!heap)
            fail("out of memory");
    }
    for (size_t parent; at && before(&added, &heap[parent = (at - 1) / 2]); at = parent)
        heap[at] = heap[parent];
    heap[at] = added;
}

static struct packet *pop(void) {
    struct packet *first = heap[0].packet;
    struct entry moved = heap[--heap_size];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < heap_size) {
        if (child + 1 < heap_size && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
    return first;
}

static void send_off(int way, int64_t due, const uint8_t *data, int size) {
    struct packet *packet = malloc(sizeof *packet + (size_t)size);
    if (!packet)
        fail("out of memory");
    packet->way = way;
    packet->size = size;
    memcpy(packet->data, data, (size_t)size);
    ways[way].held += size;
    push(due, packet);
}

static void deliver_due(void) {
    int64_t now;
    while (heap_size && heap[0].due <= (now = now_ns())) {
        int64_t late = now - heap[0].due;
        struct packet *packet = pop();
        struct way *way = &ways[packet->way];
        if (write(way->to, packet->data, (size_t)packet->size) == packet->size) {
            way->delivered++;
            way->delivered_bytes += packet->size;
        } else {
            way->unwritten++;
        }
        way->lateness[late / 1000 < LATENESS_STEPS ? late / 1000 : LATENESS_STEPS]++;
        if (late > way->latest)
            way->latest = late;
        way->held -= packet->size;
        free(packet);
    }
}

/* --- Flows --- */

static uint32_t load32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }
static uint32_t load16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static void store16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static void store32(uint8_t *p, uint32_t v) { store16(p, v >> 16); store16(p + 2, v); }

struct header {
    int protocol;
    const uint8_t *transport;        /* NULL: none that is known, or not all of it */
    int flags;                       /* of TCP */
};

static struct header parse(const uint8_t *data, int size) {
    struct header header = {data[9], NULL, 0};
    int length = (data[0] & 15) * 4;
    int later_fragment = (load16(data + 6) & 0x1fff) != 0;
    int needed = header.protocol == TCP ? TCP_HEADER : 8;
    if (later_fragment || size < length + needed)
        return header;
    header.transport = data + length;
    header.flags = header.protocol == TCP ? header.transport[13] : 0;
    return header;
}

static struct flow_key key_of(const uint8_t *data, const struct header *header) {
    struct flow_key key = {{load32(data + 12), load32(data + 16)}, {0, 0}, (uint32_t)header->protocol};
    if (header->transport && header->protocol != ICMP) {
        key.port[0] = (uint16_t)load16(header->transport);
        key.port[1] = (uint16_t)load16(header->transport + 2);
    }
    if (key.address[0] > key.address[1] || (key.address[0] == key.address[1] && key.port[0] > key.port[1])) {
        struct flow_key turned = {{key.address[1], key.address[0]}, {key.port[1], key.port[0]}, key.protocol};
        return turned;
    }
    return key;
}

static struct flow **head_of(const struct flow_key *key) {
    uint64_t addresses = (uint64_t)key->address[0] << 32 | key->address[1];
    uint64_t rest = (uint64_t)key->port[0] << 32 | (uint64_t)key->port[1] << 16 | key->protocol;
    return &flows[mix(mix(addresses) ^ rest) % FLOW_HEADS];
}

static void begin(struct flow *flow, const struct header *header, int64_t now) {
    flow->bytes = 0;
    flow->over = 0;
    for (int way = 0; way < WAYS; way++) {
        flow->tokens[way] = ways[way].flow_burst;
        flow->filled[way] = now;
    }
    flow->first_number = header->flags & SYN ? load32(header->transport + 4) : 0;
    tcp_flows += header->protocol == TCP;
    udp_flows += header->protocol == UDP;
}

/* The flow of a packet. A SYN with another number than the flow's first one begins a new flow at the same ports. */
static struct flow *flow_of(const uint8_t *data, const struct header *header, int64_t now) {
    struct flow_key key = key_of(data, header);
    struct flow **at = head_of(&key), *found = NULL;
    while (*at) {
        struct flow *flow = *at;
        if (!memcmp(&flow->key, &key, sizeof key)) {
            found = flow;
            break;
        }
        if (now - flow->seen > FORGOTTEN) {
            *at = flow->next;
            free(flow);
        } else {
            at = &flow->next;
        }
    }
    if (!found) {
        found = *at = calloc(1, sizeof *found);
        if (!found)
            fail("out of memory");
        found->key = key;
        begin(found, header, now);
    } else if ((header->flags & (SYN | ACK)) == SYN && load32(header->transport + 4) != found->first_number) {
        begin(found, header, now);
    }
    found->seen = now;
    return found;
}

static int within_police(struct flow *flow, int number, int size, int64_t now) {
    const struct way *way = &ways[number];
    if (way->flow_rate == 0)
        return 1;
    double tokens = flow->tokens[number] + way->flow_rate * (double)(now - flow->filled[number]) / SECOND;
    flow->tokens[number] = tokens < way->flow_burst ? tokens : way->flow_burst;
    flow->filled[number] = now;
    if (flow->tokens[number] < size)
        return 0;
    flow->tokens[number] -= size;
    return 1;
}

/* --- Resets --- */

static uint32_t sum16(const uint8_t *data, int size) {
    uint32_t sum = 0;
    for (int at = 0; at < size; at += 2)
        sum += load16(data + at);
    return sum;
}

static uint32_t checksum(uint32_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static void send_reset(int way, int64_t due, const uint8_t addresses[8], const uint8_t ports[4], uint32_t number) {
    uint8_t packet[IP_HEADER + TCP_HEADER] = {0x45};
    uint8_t *tcp = packet + IP_HEADER;
    store16(packet + 2, sizeof packet);
    packet[8] = 64;
    packet[9] = TCP;
    memcpy(packet + 12, addresses, 8);
    store16(packet + 10, checksum(sum16(packet, IP_HEADER)));
    memcpy(tcp, ports, 4);
    store32(tcp + 4, number);
    tcp[12] = TCP_HEADER / 4 << 4;
    tcp[13] = RST;
    store16(tcp + 16, checksum(sum16(packet + 12, 8) + TCP + TCP_HEADER + sum16(tcp, TCP_HEADER)));
    send_off(way, due, packet, sizeof packet);
}

/* One to each end, in the name of the other. An end that awaits another number says so (RFC 5961, 3.2), and is answered. */
static void reset_both(int way, const uint8_t *data, const struct header *header, int64_t now) {
    const uint8_t *tcp = header->transport, *ip = data + 12;
    uint8_t addresses[8], ports[4];
    int64_t arrival = now + (int64_t)(ways[way].delay * SECOND);
    if (header->flags & RST || !(header->flags & ACK))
        return;
    send_reset(way, arrival > ways[way].last_due ? arrival : ways[way].last_due, ip, tcp, load32(tcp + 4));
    memcpy(addresses, ip + 4, 4);
    memcpy(addresses + 4, ip, 4);
    memcpy(ports, tcp + 2, 2);
    memcpy(ports + 2, tcp, 2);
    send_reset(!way, now, addresses, ports, load32(tcp + 8));
}

/* --- The journey --- */

static int in_outage(int64_t now) {
    double at = (double)(now - outage_clock) / SECOND;
    for (int i = 0; i < outage_count; i++)
        if (outages[i].start <= at && at < outages[i].end)
            return 1;
    return 0;
}

static int beyond_limit(int number, const uint8_t *data, int size, const struct header *header, struct flow *flow,
                        int64_t now) {
    if (flow_limit == 0 || header->protocol != TCP || !header->transport)
        return 0;
    flow->bytes += size;
    if ((double)flow->bytes <= flow_limit)
        return 0;
    limited_flows += !flow->over;
    flow->over = 1;
    if (flow_reset != 0)
        reset_both(number, data, header, now);
    return 1;
}

static int is_lost(struct way *way) {
    int lost = way->loss > 0 && draw(&way->chance) < way->loss;
    if (way->enter > 0) {
        if (draw(&way->chance) < (way->in_burst ? way->leave : way->enter))
            way->in_burst = !way->in_burst;
        if (way->in_burst && draw(&way->chance) < way->lost)
            lost = 1;
    }
    return lost;
}

/* When the packet has left the queue; -1 if there is no room in it. */
static int64_t enqueue(struct way *way, int size, int64_t now) {
    if (way->rate == 0)
        return now;
    int64_t free_at = way->busy_until > now ? way->busy_until : now;
    if ((double)(free_at - now) / SECOND * way->rate + size > way->queue)
        return -1;
    return way->busy_until = free_at + (int64_t)(size / way->rate * SECOND);
}

/* Returns why the packet is dropped, or -1: it is on its way. */
static int take(int number, const uint8_t *data, int size, int64_t now) {
    struct way *way = &ways[number];
    if (size < IP_HEADER || data[0] >> 4 != 4)
        return FOREIGN;
    struct header header = parse(data, size);
    struct flow *flow = flow_of(data, &header, now);
    if (in_outage(now))
        return OUTAGE;
    if (beyond_limit(number, data, size, &header, flow, now))
        return LIMIT;
    if (!within_police(flow, number, size, now))
        return POLICED;
    if (way->held + size > MOST_HELD)
        return FULL;
    int64_t left = enqueue(way, size, now);
    if (left < 0)
        return QUEUE;
    if (is_lost(way))
        return LOSS;
    double swing = way->jitter > 0 ? (2 * draw(&way->jitter_chance) - 1) * way->jitter : 0;
    int64_t due = left + (int64_t)((way->delay + swing) * SECOND);
    if (way->reorder == 0 && due < way->last_due)
        due = way->last_due;
    way->last_due = due;
    send_off(number, due, data, size);
    return -1;
}

static void read_batch(int number) {
    static uint8_t data[LARGEST];
    struct way *way = &ways[number];
    for (int count = 0; count < BATCH; count++) {
        ssize_t size = read(way->from, data, sizeof data);
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (size <= 0)
            fail("a TUN device is gone");
        way->packets++;
        way->bytes += size;
        int cause = take(number, data, (int)size, now_ns());
        if (cause >= 0)
            way->dropped[cause]++;
    }
}

/* --- Counters --- */

/* Microseconds: this share of the deliveries was at most so late. */
static int lateness_at(const struct way *way, double share) {
    long long all = way->delivered + way->unwritten, seen = 0;
    int step = 0;
    for (; step < LATENESS_STEPS && (seen += way->lateness[step]) < share * (double)all; step++)
        ;
    return step;
}

static void print_counters(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    putchar('{');
    for (int number = 0; number < WAYS; number++) {
        const struct way *way = &ways[number];
        printf("\"%s\": {\"packets\": %lld, \"bytes\": %lld, \"delivered\": %lld, \"delivered_bytes\": %lld, ", way_names[number],
               way->packets, way->bytes, way->delivered, way->delivered_bytes);
        printf("\"unwritten\": %lld, ", way->unwritten);
        printf("\"dropped\": {");
        for (int cause = 0; cause < CAUSES; cause++)
            printf("%s\"%s\": %lld", cause ? ", " : "", cause_names[cause], way->dropped[cause]);
        printf("}, \"late_us\": {\"p50\": %d, \"p99\": %d, \"max\": %lld}}, ", lateness_at(way, 0.5), lateness_at(way, 0.99),
               (long long)way->latest / 1000);
    }
    printf("\"tcp_flows\": %lld, \"udp_flows\": %lld, \"limited_flows\": %lld, ", tcp_flows, udp_flows, limited_flows);
    printf("\"cpu_seconds\": %.3f}\n", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    fflush(stdout);
}

/* --- The program --- */

static const struct { const char *name; size_t at; } way_settings[] = {
    {"delay", offsetof(struct way, delay)},         {"jitter", offsetof(struct way, jitter)},
    {"reorder", offsetof(struct way, reorder)},     {"loss", offsetof(struct way, loss)},
    {"enter", offsetof(struct way, enter)},         {"leave", offsetof(struct way, leave)},
    {"lost", offsetof(struct way, lost)},           {"rate", offsetof(struct way, rate)},
    {"queue", offsetof(struct way, queue)},         {"flow_rate", offsetof(struct way, flow_rate)},
    {"flow_burst", offsetof(struct way, flow_burst)},
};

static double *setting(const char *name, size_t length) {
    for (int number = 0; number < WAYS; number++) {
        size_t prefix = strlen(way_names[number]);
        if (length <= prefix || strncmp(name, way_names[number], prefix) || name[prefix] != '.')
            continue;
        for (size_t i = 0; i < sizeof way_settings / sizeof *way_settings; i++)
            if (strlen(way_settings[i].name) == length - prefix - 1 &&
                !strncmp(way_settings[i].name, name + prefix + 1, length - prefix - 1))
                return (double *)((char *)&ways[number] + way_settings[i].at);
    }
    if (length == 10 && !strncmp(name, "flow_limit", length))
        return &flow_limit;
    if (length == 10 && !strncmp(name, "flow_reset", length))
        return &flow_reset;
    if (length == 4 && !strncmp(name, "seed", length))
        return &seed;
    fail("no such setting");
    return NULL;
}

static void read_setting(const char *word) {
    const char *sign = strchr(word, '=');
    char *end;
    if (!sign)
        fail("a setting is NAME=NUMBER");
    if (!strncmp(word, "outage=", 7)) {
        if (outage_count == MOST_OUTAGES)
            fail("too many outages");
        outages[outage_count].start = strtod(sign + 1, &end);
        if (*end != ':')
            fail("an outage is START:END");
        outages[outage_count++].end = strtod(end + 1, &end);
    } else {
        *setting(word, (size_t)(sign - word)) = strtod(sign + 1, &end);
    }
    if (*end || end == sign + 1)
        fail("not a number");
}

static void on_stop(int number) {
    (void)number;
    stopped = 1;
}

/* Deliveries on the microsecond: as exact timers as there are, and ahead of programs that compute, where that is allowed. */
static void be_punctual(void) {
    struct sched_param priority = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1UL);
    sched_setscheduler(0, SCHED_RR, &priority);
}

/* Returns 0 at the end of stdin. */
static int obey(void) {
    char commands[64];
    ssize_t count = read(STDIN_FILENO, commands, sizeof commands);
    for (ssize_t i = 0; i < count; i++) {
        if (commands[i] == 'c')
            print_counters();
        else if (commands[i] == 'z')
            outage_clock = now_ns();
    }
    return count > 0 || (count < 0 && errno == EINTR);
}

static struct timespec time_of(int64_t ns) { return (struct timespec){ns / SECOND, ns % SECOND}; }

static void run(const sigset_t *awake) {
    struct pollfd polled[] = {{ways[UP].from, POLLIN, 0}, {ways[DOWN].from, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    int64_t woke = 0;
    while (!stopped) {
        struct timespec pause = {0, 0}, rested = time_of(woke + REST), *limit = NULL;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &rested, NULL);
        if (heap_size) {
            int64_t left = heap[0].due - now_ns();
            if (left > 0)
                pause = time_of(left);
            limit = &pause;
        }
        if (ppoll(polled, 3, limit, awake) < 0) {
            if (errno != EINTR)
                fail(strerror(errno));
            continue;
        }
        woke = now_ns();
        deliver_due();
        for (int number = 0; number < WAYS; number++)
            if (polled[number].revents)
                read_batch(number);
        if (polled[2].revents && !obey())
            return;
    }
}

int main(int count, char **words) {
    sigset_t blocked, awake;
    if (count < 3)
        fail("usage: line CLIENT_FD SERVER_FD [NAME=NUMBER | outage=START:END]...");
    ways[UP].from = ways[DOWN].to = atoi(words[1]);
    ways[UP].to = ways[DOWN].from = atoi(words[2]);
    for (int i = 3; i < count; i++)
        read_setting(words[i]);
    for (int number = 0; number < WAYS; number++) {
        ways[number].chance = mix((uint64_t)seed * 4 + (uint64_t)number * 2);
        ways[number].jitter_chance = mix((uint64_t)seed * 4 + (uint64_t)number * 2 + 1);
    }
    signal(SIGINT, SIG_IGN); /* Ctrl-C is for whoever started this */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_stop);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &awake);
    sigdelset(&awake, SIGTERM);
    be_punctual();
    outage_clock = now_ns();
    run(&awake);
    print_counters();
    return 0;
}
