/* A mock upstream engine, for `python -m bench.gateway`.
 *
 * It speaks just enough OpenAI-compatible HTTP to put a gateway under load and costs almost nothing itself: one thread,
 * one epoll loop, no look at the request beyond its length and whether the body says "stream": true.
 *
 *   POST any path             one fixed ~330 byte chat completion with a unique id and usage; with "stream": true
 *                             20 content chunks, a finish chunk, a usage chunk and [DONE], all written at once
 *   POST /slow/...            the same stream, one event every 10 ms
 *   GET  /v1/models, others   a model list, so that readiness checks pass
 *
 * Run: mock [port]    (0 = any free port; the port is printed on stdout, then the program serves until killed)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
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

enum { CONTENT_CHUNKS = 20, PIECES = CONTENT_CHUNKS + 3, ID_DIGITS = 16, MAX_HEAD = 64 << 10, MAX_BODY = 64 << 20 };
#define SLOW_STEP_NS 10000000ULL

/* A piece of a reply with the place of the id inside it. */
struct piece { char text[512]; size_t length; size_t id_at; };

static struct piece json_reply, sse_head, sse[PIECES];
static const char MODELS[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 85\r\n\r\n"
    "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1,\"owned_by\":\"me\"}]}";
static const char TOO_ODD[] =
    "HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

struct conn {
    int fd;
    char *in, *out;
    size_t in_len, in_cap, out_len, out_at, out_cap;
    int writing, close_after, next_piece; /* next_piece >= 0: a slow stream is under way */
    uint64_t due_ns;
    char id[ID_DIGITS + 1];
    struct conn *prev, *next;
};

static int loop_fd;
static uint64_t replies;
static struct conn slow = {.prev = &slow, .next = &slow}; /* ring of slow streams, soonest first: all wait the same time */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static void *grown(void *block, size_t *cap, size_t need) {
    if (need <= *cap) return block;
    while (*cap < need) *cap = *cap ? *cap * 2 : 4096;
    block = realloc(block, *cap);
    if (!block) { perror("mock: out of memory"); exit(1); }
    return block;
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

static void prepare(struct piece *piece, const char *before, const char *body) {
    piece->length = (size_t)snprintf(piece->text, sizeof piece->text, "%s%s", before, body);
    char *id = strstr(piece->text, "0000000000000000");
    piece->id_at = id ? (size_t)(id - piece->text) : 0;
}

static void prepare_event(struct piece *piece, const char *json) {
    char event[480], size[16];
    int length = snprintf(event, sizeof event, "data: %s\n\n\r\n", json) - 2; /* the last CRLF ends the HTTP chunk */
    snprintf(size, sizeof size, "%x\r\n", length);
    prepare(piece, size, event);
}

static void prepare_replies(void) {
    static const char *words[] = {"A", " toll", " way", " is", " a", " road", " that", " pays", " for", " itself"};
    char head[160], json[400];
    const char *body =
        "{\"id\":\"chatcmpl-0000000000000000\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"mock\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A toll way is a road that pays for itself.\"},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":20,\"total_tokens\":44}}";
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", strlen(body));
    prepare(&json_reply, head, body);
    prepare(&sse_head, "",
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    const char *frame = "{\"id\":\"chatcmpl-0000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,"
                        "\"model\":\"mock\",%s}";
    for (int i = 0; i <= CONTENT_CHUNKS; i++) {
        char choice[200];
        if (i < CONTENT_CHUNKS)
            snprintf(choice, sizeof choice,
                     "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"finish_reason\":null}]",
                     i ? "" : "\"role\":\"assistant\",", words[i % 10]);
        else
            snprintf(choice, sizeof choice, "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]");
        snprintf(json, sizeof json, frame, choice);
        prepare_event(&sse[i], json);
    }
    snprintf(json, sizeof json, frame,
             "\"choices\":[],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":20,\"total_tokens\":44}");
    prepare_event(&sse[CONTENT_CHUNKS + 1], json);
    prepare(&sse[CONTENT_CHUNKS + 2], "e\r\n", "data: [DONE]\n\n\r\n0\r\n\r\n");
}

static void say(struct conn *c, const char *text, size_t length) {
    if (c->out_at == c->out_len) c->out_at = c->out_len = 0;
    c->out = grown(c->out, &c->out_cap, c->out_len + length);
    memcpy(c->out + c->out_len, text, length);
    c->out_len += length;
}

static void say_piece(struct conn *c, const struct piece *piece) {
    say(c, piece->text, piece->length);
    if (piece->id_at) memcpy(c->out + c->out_len - piece->length + piece->id_at, c->id, ID_DIGITS);
}

/* ---- the ring of slow streams ----------------------------------------------------------------------------------- */

static void leave_ring(struct conn *c) {
    if (!c->next) return;
    c->prev->next = c->next;
    c->next->prev = c->prev;
    c->prev = c->next = NULL;
}

static void join_ring(struct conn *c, uint64_t due_ns) {
    c->due_ns = due_ns;
    c->prev = slow.prev;
    c->next = &slow;
    slow.prev->next = c;
    slow.prev = c;
}

/* ---- connections ------------------------------------------------------------------------------------------------ */

static void drop(struct conn *c) {
    leave_ring(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* Writes what is waiting. Returns 0 when the connection is gone. */
static int flush(struct conn *c) {
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n > 0) { c->out_at += (size_t)n; continue; }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        drop(c);
        return 0;
    }
    int waiting = c->out_at < c->out_len;
    if (!waiting && c->close_after) { drop(c); return 0; }
    if (waiting != c->writing) {
        struct epoll_event e = {.events = EPOLLIN | (waiting ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(loop_fd, EPOLL_CTL_MOD, c->fd, &e);
        c->writing = waiting;
    }
    return 1;
}

static int wants_stream(const char *body, size_t length) {
    const char *at = body, *end = body + length;
    while ((at = memmem(at, (size_t)(end - at), "\"stream\"", 8))) {
        at += 8;
        while (at < end && isspace((unsigned char)*at)) at++;
        if (at == end || *at != ':') continue;
        for (at++; at < end && isspace((unsigned char)*at);) at++;
        if ((size_t)(end - at) >= 4 && !memcmp(at, "true", 4)) return 1;
    }
    return 0;
}

static void answer(struct conn *c, const char *head, const char *body, size_t body_len) {
    if (!memcmp(head, "GET", 3)) { say(c, MODELS, sizeof MODELS - 1); return; }
    snprintf(c->id, sizeof c->id, "%016llx", (unsigned long long)++replies);
    if (!wants_stream(body, body_len)) { say_piece(c, &json_reply); return; }
    say_piece(c, &sse_head);
    const char *path = strchr(head, ' ');
    if (path && !strncmp(path + 1, "/slow/", 6)) {
        say_piece(c, &sse[0]);
        c->next_piece = 1;
        join_ring(c, now_ns() + SLOW_STEP_NS);
        return;
    }
    for (int i = 0; i < PIECES; i++) say_piece(c, &sse[i]);
}

/* Answers one complete request in the input. Returns the bytes used, 0 = not complete yet, -1 = refused. */
static ssize_t take_request(struct conn *c, char *in, size_t have) {
    char *end = memmem(in, have, "\r\n\r\n", 4);
    if (!end) return have > MAX_HEAD ? -1 : 0;
    size_t head_len = (size_t)(end - in) + 4;
    unsigned long long body_len = 0;
    for (char *line = memchr(in, '\n', head_len); line && line + 1 < end; line = memchr(line + 1, '\n', (size_t)(end - line))) {
        if (!strncasecmp(line + 1, "content-length:", 15)) body_len = strtoull(line + 16, NULL, 10);
        else if (!strncasecmp(line + 1, "transfer-encoding:", 18)) return -1;
        else if (!strncasecmp(line + 1, "connection: close", 17)) c->close_after = 1;
    }
    if (body_len > MAX_BODY) return -1;
    if (have < head_len + body_len) return 0;
    answer(c, in, in + head_len, (size_t)body_len);
    return (ssize_t)(head_len + body_len);
}

/* Answers every complete request that has arrived, in order. Returns 0 when the connection is gone. */
static int serve(struct conn *c) {
    size_t used = 0;
    while (used < c->in_len && c->next_piece < 0) {
        ssize_t n = take_request(c, c->in + used, c->in_len - used);
        if (n < 0) { say(c, TOO_ODD, sizeof TOO_ODD - 1); c->close_after = 1; used = c->in_len; break; }
        if (!n) break;
        used += (size_t)n;
    }
    if (used) memmove(c->in, c->in + used, c->in_len -= used);
    if (c->next_piece >= 0 && c->close_after) c->close_after = 2; /* close only once the slow stream has ended */
    int hold = c->close_after == 2;
    if (hold) c->close_after = 0;
    if (!flush(c)) return 0;
    if (hold) c->close_after = 2;
    return 1;
}

static void readable(struct conn *c) {
    c->in = grown(c->in, &c->in_cap, c->in_len + 16384 + 1);
    ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) { drop(c); return; }
    if (n < 0) return;
    c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    serve(c);
}

static void step_slow_streams(void) {
    uint64_t now = now_ns();
    while (slow.next != &slow && slow.next->due_ns <= now) {
        struct conn *c = slow.next;
        leave_ring(c);
        int closing = c->close_after;
        say_piece(c, &sse[c->next_piece++]);
        if (c->next_piece == PIECES - 1) say_piece(c, &sse[c->next_piece++]); /* [DONE] goes with the usage chunk */
        int over = c->next_piece >= PIECES;
        if (over) c->next_piece = -1;
        else { join_ring(c, c->due_ns + SLOW_STEP_NS); c->close_after = 0; }
        if (!flush(c)) continue;
        c->close_after = closing;
        if (over && c->in_len) serve(c);
    }
}

static void welcome(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->next_piece = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(loop_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 1024)) { perror("mock: cannot listen"); exit(1); }
    getsockname(fd, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    prepare_replies();
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0);
    struct epoll_event ready[256], e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(loop_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int wait_ms = -1;
        if (slow.next != &slow) {
            uint64_t now = now_ns(), due = slow.next->due_ns;
            wait_ms = due > now ? (int)((due - now + 999999) / 1000000) : 0;
        }
        int n = epoll_wait(loop_fd, ready, 256, wait_ms);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) welcome(listener);
            else if (ready[i].events & EPOLLIN) readable(c);
            else if (ready[i].events & EPOLLOUT) flush(c);
            else drop(c);
        }
        step_slow_streams();
    }
}
