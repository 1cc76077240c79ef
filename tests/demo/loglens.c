/* The demo's program: reads a small configuration and a web server's log, and sums the log up. It is an ordinary C
 * program that knows nothing of Moat. Behind --bug each sort of heap bug can be switched on; every one is of a kind
 * that gets past review. Without the switch it is correct. Usage: loglens [--bug NAME] CONFIG LOG */
#include "label.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_HOSTS = 4, LINE_BYTES = 512 };

struct host {
    char name[40];
    long requests;
    long bytes;
};

struct summary {
    struct host *hosts;
    size_t host_count;
    size_t host_capacity;
    long failed_requests;
    long bad_lines;
};

struct config {
    char *title;
    char *footer;
    char *skip_path;
};

struct request {
    char *host;
    char *path;
    int status;
    long bytes;
};

static const char *bug = "";

static bool is_bug(const char *name) { return strcmp(bug, name) == 0; }

static char *copy_text(const char *text) {
    size_t length = strlen(text);
    if (is_bug("overflow-by-nul"))
        return strcpy(malloc(length), text); /* room for the text, but not for its end */
    return strcpy(malloc(length + 1), text);
}

/* Takes the line end off a text. */
static void chomp(char *text) {
    size_t length = strlen(text);
    if (is_bug("underflow") || (length > 0 && text[length - 1] == '\n'))
        text[length - 1] = '\0'; /* an empty text has no last character */
}

static void set_value(char **setting, const char *value) {
    if (!is_bug("leak"))
        free(*setting);
    *setting = copy_text(value); /* a key given twice: the first value is forgotten */
}

static void read_setting(struct config *config, char *line) {
    char *equals = strchr(line, '=');
    if (line[0] == '#' || equals == NULL)
        return;
    *equals = '\0';
    char *value = copy_text(equals + 1);
    char *start = value;
    chomp(value);
    while (isspace((unsigned char)*start))
        start++;
    if (strncmp(line, "title", 5) == 0)
        set_value(&config->title, start);
    else if (strncmp(line, "footer", 6) == 0)
        set_value(&config->footer, start);
    else if (strncmp(line, "skip", 4) == 0)
        set_value(&config->skip_path, start);
    free(is_bug("invalid-free") ? start : value); /* `start` has moved past the blanks */
}

static bool read_config(struct config *config, const char *path) {
    char line[LINE_BYTES];
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL) {
        chomp(line);
        read_setting(config, line);
    }
    fclose(file);
    return true;
}

/* Fills a request from a line "HOST - [DATE] "METHOD PATH PROTOCOL" STATUS BYTES". */
static bool parse_request(struct request *request, const char *line) {
    char host[40], path[200];
    if (sscanf(line, "%39s - [%*[^]]] \"%*s %199s %*[^\"]\" %d %ld", host, path, &request->status, &request->bytes) !=
        4) {
        if (is_bug("double-free"))
            free(request->path); /* the caller's clean-up frees it as well */
        return false;
    }
    free(request->host);
    free(request->path);
    request->host = copy_text(host);
    request->path = copy_text(path);
    return true;
}

static struct host *add_host(struct summary *summary, const char *name) {
    size_t capacity = summary->host_capacity;
    if (is_bug("overflow") ? summary->host_count > capacity : summary->host_count == capacity) {
        capacity *= 2;
        summary->hosts = realloc(summary->hosts, capacity * sizeof *summary->hosts);
        summary->host_capacity = capacity;
    }
    struct host *host = &summary->hosts[summary->host_count++];
    snprintf(host->name, sizeof host->name, "%s", name);
    host->requests = 0;
    host->bytes = 0;
    return host;
}

static struct host *find_host(struct summary *summary, const char *name) {
    for (size_t i = 0; i < summary->host_count; i++)
        if (strcmp(summary->hosts[i].name, name) == 0)
            return &summary->hosts[i];
    return NULL;
}

/* Counts a request for its host and in the table's first row, which sums up all hosts. */
static void count_request(struct summary *summary, const struct request *request) {
    struct host *total = &summary->hosts[0];
    struct host *host = find_host(summary, request->host);
    if (host == NULL)
        host = add_host(summary, request->host);
    if (!is_bug("use-after-free"))
        total = &summary->hosts[0]; /* add_host may have moved the table */
    host->requests++;
    host->bytes += request->bytes;
    total->requests++;
    total->bytes += request->bytes;
    summary->failed_requests += request->status >= 400;
}

static bool read_log(struct summary *summary, const struct config *config, const char *path) {
    char line[LINE_BYTES];
    struct request request = {0};
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL) {
        if (!parse_request(&request, line))
            summary->bad_lines++;
        else if (config->skip_path == NULL || strcmp(request.path, config->skip_path) != 0)
            count_request(summary, &request);
    }
    fclose(file);
    free(request.host);
    free(request.path);
    return true;
}

static void print_summary(const struct summary *summary, const struct config *config) {
    printf("%s\n", config->title ? config->title : "Log");
    for (size_t i = 0; i < summary->host_count; i++) {
        const struct host *host = &summary->hosts[i];
        char *label = label_make(host->name, host->requests);
        printf("  %s %7ld bytes\n", label, host->bytes);
        if (is_bug("mismatch"))
            free(label); /* it came from new[], on the other side of the language border */
        else
            label_release(label);
    }
    printf("  %ld failed, %ld lines not understood\n", summary->failed_requests, summary->bad_lines);
    if (config->footer != NULL && config->footer[0] != '\0')
        printf("%s\n", config->footer);
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "--bug") == 0) {
        bug = argv[2];
        argc -= 2;
        argv += 2;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: loglens [--bug NAME] CONFIG LOG\n");
        return 2;
    }
    struct config config = {0};
    struct summary summary = {.host_capacity = FIRST_HOSTS};
    summary.hosts = malloc(FIRST_HOSTS * sizeof *summary.hosts);
    add_host(&summary, "all");
    if (!read_config(&config, argv[1]) || !read_log(&summary, &config, argv[2])) {
        perror("loglens");
        return 1;
    }
    print_summary(&summary, &config);
    free(config.title);
    free(config.footer);
    free(config.skip_path);
    free(summary.hosts);
    return 0;
}
