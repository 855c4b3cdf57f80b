// SPDX-License-Identifier: BSL-1.0
// The operations of a program. One description of an operation's fields serves to print it as C++
// that can be pasted into a test, and to make one out of random numbers or a fuzzer's bytes.
#ifndef KSM_TESTS_MODEL_OPS_HPP
#define KSM_TESTS_MODEL_OPS_HPP

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ksm/outcome.hpp>
#include <ksm/providers/simulated.hpp>
#include <ksm/types.hpp>

#include "world.hpp"

namespace model {

struct operation;
using program = std::vector<operation>;

/// Bound of a field that names a page: as many as a space has.
inline constexpr std::uint32_t any_page = 0;

// Each has a weight (how often it is drawn), says whether it may stand in a program that runs at a
// seam, and visits its fields as `field(name, value, bound)`.

struct write {
    static constexpr char const* name = "write";
    static constexpr std::uint32_t weight = 12;
    static constexpr bool in_seam = true;
    std::uint32_t space, page, offset, bytes, content;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("page", self.page, any_page);
        field("offset", self.offset, 64U);
        field("bytes", self.bytes, 8U);
        field("content", self.content, 4U);
    }
    void perform(world& w) const {
        std::vector<std::byte> const data(bytes % 8 + 1, std::byte(content));
        // Few places, so that pages become equal again.
        w.write(space, page, offset < 32 ? 0 : std::numeric_limits<std::uint32_t>::max() - offset,
                data);
    }
};

struct fill {
    static constexpr char const* name = "fill";
    static constexpr std::uint32_t weight = 14;
    static constexpr bool in_seam = true;
    std::uint32_t space, first, count, content, step;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 9U);
        field("content", self.content, 4U);
        field("step", self.step, 4U);
    }
    void perform(world& w) const { w.fill(space, first, count, content, step); }
};

struct map {
    static constexpr char const* name = "map";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = true;
    std::uint32_t space, first, count, domain, node;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 9U);
        field("domain", self.domain, 2U);
        field("node", self.node, 2U);
    }
    void perform(world& w) const {
        w.map(space, first, count, domain, static_cast<std::uint16_t>(node));
    }
};

struct unmap {
    static constexpr char const* name = "unmap";
    static constexpr std::uint32_t weight = 3;
    static constexpr bool in_seam = true;
    std::uint32_t space, first, count;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 6U);
    }
    void perform(world& w) const { w.unmap(space, first, count); }
};

struct set_mergeable {
    static constexpr char const* name = "set_mergeable";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = true;
    std::uint32_t space, first, count;
    bool on;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 9U);
        field("on", self.on);
    }
    void perform(world& w) const { w.set_mergeable(space, first, count, on); }
};

struct create {
    static constexpr char const* name = "create";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = false;
    std::uint32_t space;
    static void fields(auto& self, auto&& field) { field("space", self.space, max_spaces); }
    void perform(world& w) const {
        w.create(space);
        w.enter(space);
    }
};

struct fork {
    static constexpr char const* name = "fork";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = true;
    std::uint32_t parent, child;
    static void fields(auto& self, auto&& field) {
        field("parent", self.parent, max_spaces);
        field("child", self.child, max_spaces);
    }
    void perform(world& w) const { w.fork(parent, child); }
};

struct exit {
    static constexpr char const* name = "exit";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = true;
    std::uint32_t space;
    static void fields(auto& self, auto&& field) { field("space", self.space, max_spaces); }
    void perform(world& w) const { w.exit(space); }
};

struct pin {
    static constexpr char const* name = "pin";
    static constexpr std::uint32_t weight = 3;
    static constexpr bool in_seam = true;
    std::uint32_t space, page;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("page", self.page, any_page);
    }
    void perform(world& w) const { w.pin(space, page); }
};

struct unpin {
    static constexpr char const* name = "unpin";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = true;
    std::uint32_t space, page;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("page", self.page, any_page);
    }
    void perform(world& w) const { w.unpin(space, page); }
};

struct lock {
    static constexpr char const* name = "lock";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = true;
    std::uint32_t space, page;
    bool on;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("page", self.page, any_page);
        field("on", self.on);
    }
    void perform(world& w) const { w.lock(space, page, on); }
};

struct move_to_node {
    static constexpr char const* name = "move_to_node";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = true;
    std::uint32_t space, first, count, node;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 6U);
        field("node", self.node, 2U);
    }
    void perform(world& w) const {
        w.move_to_node(space, first, count, static_cast<std::uint16_t>(node));
    }
};

struct move_to_domain {
    static constexpr char const* name = "move_to_domain";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = true;
    std::uint32_t space, first, count, domain;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 6U);
        field("domain", self.domain, 2U);
    }
    void perform(world& w) const { w.move_to_domain(space, first, count, domain); }
};

struct limit_frames {
    static constexpr char const* name = "limit_frames";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = true;
    std::uint32_t spare;
    static void fields(auto& self, auto&& field) { field("spare", self.spare, 8U); }
    void perform(world& w) const { w.limit_frames(spare); }
};

struct limit_mappings {
    static constexpr char const* name = "limit_mappings";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = true;
    std::uint32_t spare;
    static void fields(auto& self, auto&& field) { field("spare", self.spare, 8U); }
    void perform(world& w) const { w.limit_mappings(spare); }
};

struct lift_limits {
    static constexpr char const* name = "lift_limits";
    static constexpr std::uint32_t weight = 5;
    static constexpr bool in_seam = true;
    static void fields(auto&, auto&&) {}
    void perform(world& w) const { w.lift_limits(); }
};

struct enter {
    static constexpr char const* name = "enter";
    static constexpr std::uint32_t weight = 6;
    static constexpr bool in_seam = false;
    std::uint32_t space;
    static void fields(auto& self, auto&& field) { field("space", self.space, max_spaces); }
    void perform(world& w) const { w.enter(space); }
};

struct leave {
    static constexpr char const* name = "leave";
    static constexpr std::uint32_t weight = 1;
    static constexpr bool in_seam = false;
    std::uint32_t space;
    static void fields(auto& self, auto&& field) { field("space", self.space, max_spaces); }
    void perform(world& w) const { w.leave(space); }
};

struct scan {
    static constexpr char const* name = "scan";
    static constexpr std::uint32_t weight = 10;
    static constexpr bool in_seam = false;
    std::uint32_t budget;
    static void fields(auto& self, auto&& field) { field("budget", self.budget, 20U); }
    void perform(world& w) const { w.scan(ksm::page_count{budget}); }
};

struct scan_pass {
    static constexpr char const* name = "scan_pass";
    static constexpr std::uint32_t weight = 14;
    static constexpr bool in_seam = false;
    static void fields(auto&, auto&&) {}
    void perform(world& w) const {
        w.scan(ksm::page_count{std::numeric_limits<std::size_t>::max()});
    }
};

struct merge_now {
    static constexpr char const* name = "merge_now";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = false;
    std::uint32_t space, first, count;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 20U);
    }
    void perform(world& w) const { w.merge_now(space, first, count); }
};

struct unmerge {
    static constexpr char const* name = "unmerge";
    static constexpr std::uint32_t weight = 4;
    static constexpr bool in_seam = false;
    std::uint32_t space, first, count;
    static void fields(auto& self, auto&& field) {
        field("space", self.space, max_spaces);
        field("first", self.first, any_page);
        field("count", self.count, 20U);
    }
    void perform(world& w) const { w.unmerge(space, first, count); }
};

struct unmerge_all {
    static constexpr char const* name = "unmerge_all";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = false;
    static void fields(auto&, auto&&) {}
    void perform(world& w) const { w.unmerge_all(); }
};

struct use_zero_pages {
    static constexpr char const* name = "use_zero_pages";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = false;
    bool on;
    static void fields(auto& self, auto&& field) { field("on", self.on); }
    void perform(world& w) const { w.use_zero_pages(on); }
};

struct merge_across_nodes {
    static constexpr char const* name = "merge_across_nodes";
    static constexpr std::uint32_t weight = 2;
    static constexpr bool in_seam = false;
    bool on;
    static void fields(auto& self, auto&& field) { field("on", self.on); }
    void perform(world& w) const { w.merge_across_nodes(on); }
};

struct restart {
    static constexpr char const* name = "restart";
    static constexpr std::uint32_t weight = 1;
    static constexpr bool in_seam = false;
    static void fields(auto&, auto&&) {}
    void perform(world& w) const { w.restart(); }
};

struct fail_metadata {
    static constexpr char const* name = "fail_metadata";
    static constexpr std::uint32_t weight = 3;
    static constexpr bool in_seam = false;
    std::uint32_t after, count;
    static void fields(auto& self, auto&& field) {
        field("after", self.after, 8U);
        field("count", self.count, 6U);
    }
    void perform(world& w) const { w.fail_metadata(after, count); }
};

struct fail_provider {
    static constexpr char const* name = "fail_provider";
    static constexpr std::uint32_t weight = 6;
    static constexpr bool in_seam = false;
    ksm::operation where;
    std::uint32_t after, done;
    ksm::status why;
    static void fields(auto& self, auto&& field) {
        field("where", self.where);
        field("after", self.after, 4U);
        field("done", self.done, 4U);
        field("why", self.why);
    }
    void perform(world& w) const { w.fail_provider(where, after, done, why); }
};

struct at_seam {
    static constexpr char const* name = "at_seam";
    static constexpr std::uint32_t weight = 12;
    static constexpr bool in_seam = false;
    ksm::seam seam;
    std::uint32_t skip;
    bool here;
    std::vector<operation> program;
    static void fields(auto& self, auto&& field) {
        field("seam", self.seam);
        field("skip", self.skip, 6U);
        field("here", self.here);
        field("program", self.program);
    }
    void perform(world& w) const;
};

struct settle {
    static constexpr char const* name = "settle";
    static constexpr std::uint32_t weight = 1;
    static constexpr bool in_seam = false;
    static void fields(auto&, auto&&) {}
    void perform(world& w) const { w.settle(); }
};

using any_operation =
    std::variant<write, fill, map, unmap, set_mergeable, create, fork, exit, pin, unpin, lock,
                 move_to_node, move_to_domain, limit_frames, limit_mappings, lift_limits, enter,
                 leave, scan, scan_pass, merge_now, unmerge, unmerge_all, use_zero_pages,
                 merge_across_nodes, restart, fail_metadata, fail_provider, at_seam, settle>;

struct operation {
    any_operation what;

    operation() = default;
    template <class Operation>
        requires(!std::is_same_v<std::remove_cvref_t<Operation>, operation>)
    operation(Operation&& o) : what(std::forward<Operation>(o)) {} // as in a pasted program

    void perform(world& w) const {
        std::visit([&w](auto const& o) { o.perform(w); }, what);
    }
};

inline void at_seam::perform(world& w) const {
    w.at_seam(seam, skip, here, [program = program](world& inside) {
        for (operation const& o : program) {
            o.perform(inside);
        }
    });
}

// ---------------------------------------------------------------------- printing

[[nodiscard]] std::string print(operation const& o);

[[nodiscard]] inline std::string print(program const& p, std::string const& indent) {
    std::string text = "{";
    for (operation const& o : p) {
        text += "\n" + indent + "    " + print(o) + ",";
    }
    return text + (p.empty() ? "}" : "\n" + indent + "}");
}

[[nodiscard]] inline std::string print(std::uint32_t n) { return std::to_string(n); }
[[nodiscard]] inline std::string print(bool b) { return b ? "true" : "false"; }
[[nodiscard]] inline std::string print(ksm::status s) {
    return std::string("ksm::status::") + ksm::name(s);
}
[[nodiscard]] inline std::string print(ksm::operation o) {
    return std::string("ksm::operation::") + ksm::name(o);
}
[[nodiscard]] inline std::string print(ksm::seam s) {
    return std::string("ksm::seam::") + ksm::name(s);
}
[[nodiscard]] inline std::string print(program const& p) { return print(p, "        "); }

/// The operation as C++ that makes it.
[[nodiscard]] inline std::string print(operation const& o) {
    return std::visit(
        [](auto const& what) {
            std::string text;
            what.fields(what, [&text](char const* name, auto const& value, auto...) {
                text += (text.empty() ? "." : ", .") + std::string(name) + " = " + print(value);
            });
            return std::string(what.name) + "{" + text + "}";
        },
        o.what);
}

// ---------------------------------------------------------------------- drawing

/// Numbers that a program is made of.
class source {
  public:
    source() = default;
    virtual ~source() = default;
    source(source const&) = delete;
    source& operator=(source const&) = delete;

    [[nodiscard]] virtual bool empty() const noexcept = 0;
    [[nodiscard]] virtual std::uint32_t below(std::uint32_t bound) noexcept = 0;
};

/// splitmix64: the same numbers on every machine.
class random_source final : public source {
  public:
    explicit random_source(std::uint64_t seed) noexcept : state_(seed) {}
    [[nodiscard]] bool empty() const noexcept override { return false; }
    [[nodiscard]] std::uint32_t below(std::uint32_t bound) noexcept override {
        std::uint64_t z = state_ += 0x9E3779B97F4A7C15U;
        z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
        z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
        return static_cast<std::uint32_t>((z ^ (z >> 31U)) >> 32U) % bound;
    }

  private:
    std::uint64_t state_;
};

/// A fuzzer's bytes, and zeros behind them.
class byte_source final : public source {
  public:
    explicit byte_source(std::span<std::uint8_t const> bytes) noexcept : bytes_(bytes) {}
    [[nodiscard]] bool empty() const noexcept override { return bytes_.empty(); }
    [[nodiscard]] std::uint32_t below(std::uint32_t bound) noexcept override {
        if (bytes_.empty()) {
            return 0;
        }
        std::uint32_t const n = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return n % bound;
    }

  private:
    std::span<std::uint8_t const> bytes_;
};

class drawer {
  public:
    drawer(source& numbers, std::uint32_t pages) noexcept : numbers_(numbers), pages_(pages) {}

    [[nodiscard]] operation draw(bool in_seam = false) {
        return draw(in_seam, std::make_index_sequence<std::variant_size_v<any_operation>>{});
    }

  private:
    template <std::size_t I>
    static constexpr std::uint32_t weight_of(bool in_seam) {
        using type = std::variant_alternative_t<I, any_operation>;
        return in_seam && !type::in_seam ? 0 : type::weight;
    }

    template <std::size_t... I>
    [[nodiscard]] operation draw(bool in_seam, std::index_sequence<I...>) {
        operation drawn{lift_limits{}};
        std::uint32_t left = numbers_.below((weight_of<I>(in_seam) + ...));
        auto const try_one = [&]<std::size_t J>(std::integral_constant<std::size_t, J>) {
            if (left < weight_of<J>(in_seam)) {
                std::variant_alternative_t<J, any_operation> o{};
                o.fields(o, [&](char const*, auto& value, auto... bound) {
                    draw_field(value, bound...);
                });
                drawn = std::move(o);
                return true;
            }
            left -= weight_of<J>(in_seam);
            return false;
        };
        (void)(try_one(std::integral_constant<std::size_t, I>{}) || ...);
        return drawn;
    }

    void draw_field(std::uint32_t& value, std::uint32_t bound) {
        value = numbers_.below(bound == any_page ? pages_ : bound);
    }
    void draw_field(bool& value) { value = numbers_.below(2) == 1; }
    void draw_field(ksm::status& value) {
        value = static_cast<ksm::status>(numbers_.below(ksm::status_count));
    }
    void draw_field(ksm::operation& value) {
        value = static_cast<ksm::operation>(numbers_.below(ksm::operation_count));
    }
    void draw_field(ksm::seam& value) {
        value = static_cast<ksm::seam>(numbers_.below(ksm::seam_count));
    }
    void draw_field(program& value) {
        for (std::uint32_t n = 1 + numbers_.below(3); n > 0; --n) {
            value.push_back(draw(true));
        }
    }

    source& numbers_;
    std::uint32_t pages_;
};

} // namespace model

#endif
