/* A load generator for chat completions over plain HTTP/1.1, for the commands under bench/.
 *
 * Closed loop: every connection keeps one request in flight and sends the next when the answer is complete. One thread,
 * one epoll loop. Latencies are as seen on the wire (not "corrected"); only requests that both start and end inside the
 * timed window are counted in them. After the window nothing new is sent and what is in flight is awaited, so that
 * `answered` is the exact number of complete, well-formed 200 answers since the start.
 *
 * Run: load --port P [--path /v1/chat/completions] [--conns 32] [--seconds 3 | --requests N] [--warmup 0.5] [--sse]
 *           [--min-events 0] [--header "Name: value"]... (--body JSON | --bodies FILE with one JSON a line, used in turn)
 * Prints one JSON object on stdout; a summary of the first bad answer is in "first_error".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ULL
enum { MAX_ANSWER = 8 << 20, MAX_BODIES = 4096, GIVE_UP_ERRORS = 2000, DRAIN_SECONDS = 30 };
enum framing { UNKNOWN, BY_LENGTH, CHUNKED, UNTIL_CLOSE };

struct text { char *at; size_t length, cap; };
struct samples { uint64_t *at; size_t count, cap; };

struct conn {
    int fd, busy, fresh; /* fresh: nothing has been answered on this TCP connection yet */
    const struct text *request;
    size_t sent;
    struct text in, body; /* raw bytes not yet used; the answer without its framing */
    enum framing framing;
    int status, server_closes;
    uint64_t left; /* bytes still to come: of the body, or of the chunk */
    int in_chunk;
    uint64_t started_ns, first_data_ns;
};

static struct {
    int port, conns, sse;
    long requests, min_events;
    double seconds, warmup;
    const char *path;
    struct text headers, bodies[MAX_BODIES], wire[MAX_BODIES];
    size_t body_count;
} opt = {.conns = 32, .seconds = 3, .warmup = 0.5, .path = "/v1/chat/completions"};

static int loop_fd, stopping, in_flight;
static uint64_t begin_ns, window_ns, end_ns, last_end_ns;
static uint64_t issued, answered, errors, reconnects, in_window, events_seen, tokens_seen, by_status[600];
static struct samples latency, ttft;
static char first_error[400];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void append(struct text *text, const char *bytes, size_t length) {
    if (text->length + length + 1 > text->cap) {
        text->cap = (text->length + length + 1) * 2;
        text->at = realloc(text->at, text->cap);
        if (!text->at) { perror("load: out of memory"); exit(1); }
    }
    memcpy(text->at + text->length, bytes, length);
    text->length += length;
    text->at[text->length] = 0;
}

static void drop_front(struct text *text, size_t used) {
    memmove(text->at, text->at + used, text->length -= used);
    if (text->at) text->at[text->length] = 0;
}

static void keep(struct samples *samples, uint64_t value) {
    if (samples->count == samples->cap) {
        samples->cap = samples->cap ? samples->cap * 2 : 1 << 16;
        samples->at = realloc(samples->at, samples->cap * sizeof *samples->at);
        if (!samples->at) { perror("load: out of memory"); exit(1); }
    }
    samples->at[samples->count++] = value;
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void watch(struct conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(loop_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void open_connection(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    if (c->fd >= 0) close(c->fd);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) {
        fprintf(stderr, "load: cannot connect to 127.0.0.1:%d: %s\n", opt.port, strerror(errno));
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fresh = 1;
    c->in.length = 0;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(loop_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void push(struct conn *c) {
    while (c->sent < c->request->length) {
        ssize_t n = send(c->fd, c->request->at + c->sent, c->request->length - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) c->sent += (size_t)n;
        else if (n < 0 && errno == EAGAIN) { watch(c, EPOLLIN | EPOLLOUT); return; }
        else if (n < 0 && errno != EINTR) return; /* the read side will see the end of the connection */
    }
}

static void reset_answer(struct conn *c) {
    c->body.length = 0;
    c->framing = UNKNOWN;
    c->status = c->server_closes = c->in_chunk = 0;
    c->left = c->first_data_ns = 0;
}

static void issue(struct conn *c) {
    if (stopping || (opt.requests && issued >= (uint64_t)opt.requests)) return;
    c->request = &opt.wire[issued++ % opt.body_count];
    c->sent = 0;
    c->busy = 1;
    in_flight++;
    reset_answer(c);
    c->started_ns = now_ns();
    push(c);
}

/* ---- judging an answer ------------------------------------------------------------------------------------------ */

static size_t occurrences(const struct text *body, const char *what) {
    size_t found = 0, length = strlen(what);
    const char *at = body->at, *end = body->at + body->length;
    while (at && (at = memmem(at, (size_t)(end - at), what, length))) { found++; at += length; }
    return found;
}

static uint64_t completion_tokens(const struct text *body) {
    static const char key[] = "\"completion_tokens\":";
    const char *at = body->at, *end = body->at + body->length;
    uint64_t last = 0;
    while (at && (at = memmem(at, (size_t)(end - at), key, sizeof key - 1))) {
        at += sizeof key - 1;
        last = strtoull(at, NULL, 10);
    }
    return last;
}

static void note_error(const struct conn *c, const char *why) {
    errors++;
    if (first_error[0]) return;
    snprintf(first_error, sizeof first_error, "%s; status %d; %.200s", why, c->status, c->body.length ? c->body.at : "");
}

static void finished(struct conn *c) {
    uint64_t now = now_ns();
    const char *wrong = NULL;
    size_t events = 0;
    if (c->status > 0 && c->status < 600) by_status[c->status]++;
    if (c->status != 200) wrong = "not answered with 200";
    else if (!opt.sse) wrong = memmem(c->body.at, c->body.length, "\"choices\"", 9) ? NULL : "no choices in the answer";
    else {
        events = occurrences(&c->body, "data:");
        if (!memmem(c->body.at, c->body.length, "data: [DONE]", 12)) wrong = "the stream has no [DONE]";
        else if ((long)events < opt.min_events) wrong = "too few events in the stream";
    }
    if (wrong) note_error(c, wrong);
    else {
        answered++;
        events_seen += events;
        tokens_seen += completion_tokens(&c->body);
        if (now >= window_ns && now <= end_ns) in_window++;
        if (c->started_ns >= window_ns && now <= end_ns) {
            keep(&latency, now - c->started_ns);
            if (c->first_data_ns) keep(&ttft, c->first_data_ns - c->started_ns);
        }
    }
    last_end_ns = now;
    in_flight--;
    c->busy = c->fresh = 0;
    if (c->server_closes) open_connection(c);
    issue(c);
}

/* ---- receiving -------------------------------------------------------------------------------------------------- */

static int take_head(struct conn *c) {
    char *end = c->in.length ? memmem(c->in.at, c->in.length, "\r\n\r\n", 4) : NULL;
    if (!end) return 0;
    if (sscanf(c->in.at, "HTTP/1.%*d %d", &c->status) != 1) c->status = 0;
    c->framing = UNTIL_CLOSE;
    for (char *line = strstr(c->in.at, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) { c->framing = BY_LENGTH; c->left = strtoull(line + 17, NULL, 10); }
        else if (!strncasecmp(line + 2, "transfer-encoding: chunked", 26)) c->framing = CHUNKED;
        else if (!strncasecmp(line + 2, "connection: close", 17)) c->server_closes = 1;
    }
    drop_front(&c->in, (size_t)(end - c->in.at) + 4);
    return 1;
}

static void take_bytes(struct conn *c, size_t at, size_t length) {
    append(&c->body, c->in.at + at, length);
    if (opt.sse && !c->first_data_ns && memmem(c->body.at, c->body.length, "data:", 5)) c->first_data_ns = now_ns();
}

/* Takes whole and partial HTTP chunks out of the input. Returns 1 at the end of the answer, -1 when it is malformed. */
static int take_chunks(struct conn *c) {
    size_t at = 0;
    int over = 0;
    while (!over && at < c->in.length) {
        if (c->in_chunk && c->left) {
            size_t n = c->in.length - at < c->left ? c->in.length - at : (size_t)c->left;
            take_bytes(c, at, n);
            at += n;
            c->left -= n;
            continue;
        }
        char *line = c->in.at + at, *eol = memmem(line, c->in.length - at, "\r\n", 2), *stop;
        if (!eol) break;
        if (c->in_chunk) { if (eol != line) return -1; c->in_chunk = 0; at += 2; continue; }
        c->left = strtoull(line, &stop, 16);
        if (stop == line) return -1;
        size_t size_line = (size_t)(eol - line) + 2;
        if (c->left) { c->in_chunk = 1; at += size_line; continue; }
        if (c->in.length - at < size_line + 2) break; /* the last chunk ends with an empty line (no trailers) */
        at += size_line + 2;
        over = 1;
    }
    drop_front(&c->in, at);
    return over;
}

static void advance(struct conn *c) {
    int over = 0;
    if (c->framing == UNKNOWN && !take_head(c)) return;
    if (c->framing == CHUNKED) over = take_chunks(c);
    else {
        size_t n = c->in.length;
        if (c->framing == BY_LENGTH && n > c->left) n = (size_t)c->left;
        if (n) take_bytes(c, 0, n);
        drop_front(&c->in, n);
        if (c->framing == BY_LENGTH) { c->left -= n; over = !c->left; }
    }
    if (over < 0 || c->body.length > MAX_ANSWER) {
        note_error(c, over < 0 ? "malformed chunked answer" : "answer too long");
        in_flight--;
        c->busy = 0;
        open_connection(c);
        issue(c);
    } else if (over) finished(c);
}

static void lost(struct conn *c) {
    int had_answer = c->framing == UNTIL_CLOSE && c->busy;
    c->server_closes = 1;
    if (had_answer) { finished(c); return; }
    reconnects++;
    int stale = c->busy && !c->fresh && c->framing == UNKNOWN && !c->in.length; /* an idle keep-alive connection ended */
    if (c->busy && !stale) {
        note_error(c, "connection lost in the middle of an answer");
        in_flight--;
        c->busy = 0;
    }
    open_connection(c);
    if (stale) { c->sent = 0; push(c); }
    else issue(c);
}

static void readable(struct conn *c) {
    char buffer[65536];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { lost(c); return; }
    append(&c->in, buffer, (size_t)n);
    if (c->busy) advance(c);
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double at_share(const struct samples *sorted, double share) {
    if (!sorted->count) return 0;
    size_t i = (size_t)(share * (double)sorted->count);
    return (double)sorted->at[i < sorted->count ? i : sorted->count - 1] / 1e6;
}

static void print_percentiles(const char *name, struct samples *s) {
    if (s->count) qsort(s->at, s->count, sizeof *s->at, by_size);
    printf(",\"%s_p50_ms\":%.4f,\"%s_p90_ms\":%.4f,\"%s_p99_ms\":%.4f,\"%s_max_ms\":%.4f", name, at_share(s, .5), name,
           at_share(s, .9), name, at_share(s, .99), name, at_share(s, 1));
}

static void print_result(void) {
    uint64_t until = opt.requests ? last_end_ns : end_ns, from = opt.requests ? begin_ns : window_ns;
    double seconds = (double)(until - from) / (double)SECOND;
    uint64_t counted = opt.requests ? answered : in_window;
    printf("{\"rate\":%.2f,\"seconds\":%.4f,\"counted\":%llu", seconds > 0 ? (double)counted / seconds : 0, seconds,
           (unsigned long long)counted);
    printf(",\"answered\":%llu,\"errors\":%llu,\"reconnects\":%llu,\"events\":%llu,\"tokens\":%llu,\"unfinished\":%d",
           (unsigned long long)answered, (unsigned long long)errors, (unsigned long long)reconnects,
           (unsigned long long)events_seen, (unsigned long long)tokens_seen, in_flight);
    print_percentiles("latency", &latency);
    print_percentiles("ttft", &ttft);
    printf(",\"status\":{");
    for (int i = 0, n = 0; i < 600; i++)
        if (by_status[i]) printf("%s\"%d\":%llu", n++ ? "," : "", i, (unsigned long long)by_status[i]);
    printf("},\"first_error\":\"");
    for (const char *p = first_error; *p; p++) {
        if ((unsigned char)*p < 32) printf(" ");
        else if (*p == '"' || *p == '\\') printf("\\%c", *p);
        else putchar((unsigned char)*p < 127 ? *p : '?');
    }
    printf("\"}\n");
}

static void read_bodies(const char *path) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    if (!file) { perror(path); exit(1); }
    while (opt.body_count < MAX_BODIES && (n = getline(&line, &cap, file)) > 0) {
        if (line[n - 1] == '\n') n--;
        if (n) append(&opt.bodies[opt.body_count++], line, (size_t)n);
    }
    free(line);
    fclose(file);
}

static void read_options(int argc, char **argv) {
    static const struct option names[] = {
        {"port", 1, 0, 'p'}, {"path", 1, 0, 'u'}, {"conns", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"requests", 1, 0, 'n'},
        {"warmup", 1, 0, 'w'}, {"sse", 0, 0, 'e'}, {"min-events", 1, 0, 'm'}, {"header", 1, 0, 'h'}, {"body", 1, 0, 'b'},
        {"bodies", 1, 0, 'f'}, {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (o) {
        case 'p': opt.port = atoi(optarg); break;
        case 'u': opt.path = optarg; break;
        case 'c': opt.conns = atoi(optarg); break;
        case 's': opt.seconds = atof(optarg); break;
        case 'n': opt.requests = atol(optarg); break;
        case 'w': opt.warmup = atof(optarg); break;
        case 'e': opt.sse = 1; break;
        case 'm': opt.min_events = atol(optarg); break;
        case 'h': append(&opt.headers, optarg, strlen(optarg)); append(&opt.headers, "\r\n", 2); break;
        case 'b': append(&opt.bodies[opt.body_count++], optarg, strlen(optarg)); break;
        case 'f': read_bodies(optarg); break;
        default: exit(2);
    }
    if (opt.port <= 0 || opt.conns <= 0 || !opt.body_count) { fprintf(stderr, "load: --port, --conns and a body are needed\n"); exit(2); }
    for (size_t i = 0; i < opt.body_count; i++) {
        char head[1024];
        int n = snprintf(head, sizeof head,
                         "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n",
                         opt.path, opt.port, opt.bodies[i].length);
        append(&opt.wire[i], head, (size_t)n);
        if (opt.headers.length) append(&opt.wire[i], opt.headers.at, opt.headers.length);
        append(&opt.wire[i], "\r\n", 2);
        append(&opt.wire[i], opt.bodies[i].at, opt.bodies[i].length);
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    struct conn *conns = calloc((size_t)opt.conns, sizeof *conns);
    begin_ns = now_ns();
    window_ns = begin_ns + (opt.requests ? 0 : (uint64_t)(opt.warmup * 1e9));
    end_ns = opt.requests ? UINT64_MAX : window_ns + (uint64_t)(opt.seconds * 1e9);
    uint64_t give_up_ns = (opt.requests ? begin_ns + (uint64_t)(opt.seconds * 1e9) : end_ns) + DRAIN_SECONDS * SECOND;
    for (int i = 0; i < opt.conns; i++) { conns[i].fd = -1; open_connection(&conns[i]); }
    for (int i = 0; i < opt.conns; i++) issue(&conns[i]);
    while (in_flight) {
        struct epoll_event ready[256];
        int n = epoll_wait(loop_fd, ready, 256, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT) { watch(c, EPOLLIN); push(c); }
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        uint64_t now = now_ns();
        if (now >= end_ns || (errors >= GIVE_UP_ERRORS && errors > answered)) stopping = 1;
        if (now >= give_up_ns) break;
    }
    print_result();
    return 0;
}
