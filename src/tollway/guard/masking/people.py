"""Names of persons, English and Chinese, from what stands around them: titles, introductions, signatures, first names.

There is no checksum on a name, so these are hints: a capitalised pair that begins with a usual first name; a Chinese
surname with one or two characters next to a title or after `姓名：`. They are reported apart from the certain kinds.
"""

import re
from collections.abc import Iterator
from typing import Final

_SURNAMES: Final = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾萧肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜"
    "崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤常温康施文牛樊"
    "葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷盛曲翁冉骆"
    "蓝路游辛靳管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤阳时穆农司卓古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席卫米柏宗瞿"
    "桂全佟应臧闵苟邬边卞姬师和仇栾隋商刁沙荣巫寇桑郎甄丛仲虞敖巩明佘池查麻苑迟邝"
)
_DOUBLE: Final = "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|司徒|夏侯|南宫|长孙|端木|百里|宇文"
_FAMILY: Final = f"(?:{_DOUBLE}|[{_SURNAMES}])"
_GIVEN: Final = "[\u4e00-\u9fff]{1,2}"
_TITLES: Final = (
    "先生|女士|小姐|太太|老师|医生|大夫|护士|经理|主任|教授|同学|师傅|阿姨|叔叔|律师|博士|院长|校长|局长|处长|科长|董事长|总监"
    "|警官|法官|大哥|大姐|大爷|大妈|奶奶|爷爷|主管|同志"
)
_LABELS: Final = (
    "姓名|名字|收件人|收货人|寄件人|联系人|客户|申请人|患者|病人|户主|持卡人|经办人"
    "|签名|开户人|户名|法人|法定代表人|负责人|投保人|被保险人|紧急联系人|收款人|付款人|汇款人|投诉人|报案人|当事人"
    "|车主|业主|房东|租客|乘客|旅客|原告|被告|证人|监护人|家属|受益人|学员|会员"
)
_NOT_NAMES_WORDS: Final = (
    "高兴 方便 时间 于是 安全 成功 王国 马上 任何 白色 金额 江苏 江西 安徽 常常 明白 明天 明年 和平 关于 关系 任务 高级 "
    "包括 包装 成为 成立 全部 全国 应该 应用 解决 简单 连接 项目 和谐 时候 文件 文化 文字 文章 万一 严重 严格 温度 温馨 "
    "方法 方式 方面 方案 石头 金融 金牌 黄色 黄金 白天 龙虾 牛奶 马路 路上 路线 车辆 车票 米饭 费用 管理 单位 单独 季节 "
    "季度 商品 商家 商务 商店 沙发 师傅 房间 房子 农民 司机 古代 吉祥 应当 应急 全新 全体 查询 查看 何时 何处 何况 曾经 "
    "向导 康复 施工 易用 常见 常用 经理 高端 高效 高质 万分 万元 成都 景点 宁波 贺卡 顾客 席位 华丽 华为 华东 华南 苹果 "
    "安装 安排 连锁 宫殿 蓝色 苗条 盛大 游客 游戏 任意 冷静 冷却 尤其 古老 和气 应聘 边缘 党员 党委 段落 牛仔 明显 明确 "
    "包裹 钱包 关注 关键 关闭 张开 于此 于今 余额 史上 章节 温暖 温柔 施行 计算 管道 解释 解放 农业 农村 米粒 白酒 黄酒 "
    "金属 银行 万能 万事 石油 强烈 向上 常规 常务 方向 "
)
_NOT_NAMES: Final = frozenset(_NOT_NAMES_WORDS.split())
_FIRST_WORDS: Final = (
    "James John Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony Mark "
    "Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Timothy Ronald Jason Edward Jeffrey Ryan Jacob Gary "
    "Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Alexander Patrick Frank "
    "Raymond Jack Dennis Jerry Tyler Aaron Jose Adam Nathan Henry Zachary Douglas Peter Kyle Noah Ethan Jeremy Walter "
    "Christian Keith Roger Terry Austin Sean Gerald Carl Harold Dylan Arthur Lawrence Jordan Jesse Bryan Billy Bruce "
    "Gabriel Joe Logan Alan Juan Albert Willie Elijah Wayne Randy Vincent Mason Roy Ralph Bobby Russell Bradley "
    "Philip Eugene Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Sandra "
    "Margaret Ashley Kimberly Emily Donna Michelle Carol Amanda Melissa Deborah Stephanie Dorothy Rebecca Sharon "
    "Laura Cynthia Amy Kathleen Angela Shirley Brenda Emma Anna Pamela Nicole Samantha Katherine Christine Helen "
    "Debra Rachel Carolyn Janet Maria Catherine Heather Diane Olivia Julie Joyce Victoria Ruth Virginia Lauren Kelly "
    "Christina Joan Evelyn Judith Andrea Hannah Megan Cheryl Jacqueline Martha Madison Teresa Gloria Sara Janice Ann "
    "Kathryn Abigail Sophia Frances Jean Alice Judy Isabella Julia Grace Amber Denise Danielle Marilyn Beverly "
    "Charlotte Natalie Theresa Diana Brittany Doris Kayla Alexis Lori Marie Tom Tim Jim Bob Bill Mike Steve Dave Dan "
    "Ben Sam Alex Nick Chris Matt Tony Rick Ron Ken Greg Jeff Fred Ted Max Leo Oscar Luke Ian Neil Simon Martin "
    "Oliver Harry Charlie Jane Kate Lucy Sophie Ella Chloe Mia Zoe Ava Lily Wei Ming Jing Ying Hui Xin Yan Fang Lei "
)
_FIRST: Final = frozenset(_FIRST_WORDS.split())
_CAPITAL: Final = r"[A-Z][a-z]+(?:[-'’][A-Z][a-z]+)?"  # a possessive 's is not part of a name
_TITLE: Final = re.compile(
    rf"(?<![A-Za-z])(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Madam)\.?[ \u00a0]+({_CAPITAL}"
    rf"(?: (?:[A-Z]\. )?{_CAPITAL})?)"
)
_SAID: Final = re.compile(
    rf"(?:(?i:my name is|my name's|name\s*[:：]|i am called|signed\s*[:：,]|patient\s*[:：]|customer\s*[:：]"
    rf"|contact(?: person)?\s*[:：]"
    rf"|cardholder\s*[:：]|attn\.?\s*[:：]?|sincerely,|regards,|yours,))\s*({_CAPITAL}(?: (?:[A-Z]\. ?)?{_CAPITAL}){{0,2}})"
)
_GREETED: Final = re.compile(
    rf"(?<![A-Za-z])(?:(?i:dear|hi|hello|hey|i am|i'm|this is|thanks|ask for))[ ,]+({_CAPITAL})"
    rf"(?: ({_CAPITAL}))?"
)
_PAIR: Final = re.compile(rf"(?<![A-Za-z])({_CAPITAL})( (?:[A-Z]\. )?{_CAPITAL})")
_ZH_TITLE: Final = re.compile(rf"(?<![{_SURNAMES}])(?!{_LABELS})({_FAMILY}(?:[\u4e00-\u9fff]{{1,2}})??)(?:{_TITLES})")
_ZH_LABEL: Final = re.compile(rf"(?:{_LABELS})(?:[:：是为]|\s)\s*({_FAMILY}{_GIVEN})(?![\u4e00-\u9fff]{{3}})")
_TAIL: Final = "单类群端方户员量率额数据表层级别期区段组价款项费源心见性化力品卡长站师"  # a name seldom ends so
_ZH_TOLD: Final = re.compile(  # 患者刘洋（…: with no sign between them, something has to end the name
    rf"(?:患者|病人|投诉人|报案人|申请人|收件人|收货人|寄件人|联系人|户主|持卡人|经办人|当事人|收款人|付款人|汇款人|被告|原告|房东|租客|车主"
    rf"|客户(?=[^（(]{{2,3}}[（(]))({_FAMILY}(?!{_TITLES})[\u4e00-\u9fff]?(?![{_TAIL}])[\u4e00-\u9fff])"
    r"(?=[（(，,。；;、：:\s]|$|的(?:电话|手机|身份证|住址|地址|邮箱|银行卡|微信))"
)
_ZH_CALLED: Final = re.compile(rf"({_FAMILY})(?:总|姐|哥)(?=[，。,！!、:：\s）)您你好说]|的(?!来说)|$)")
_ZH_KIN: Final = re.compile(
    rf"(?:爱人|丈夫|妻子|老公|老婆|儿子|女儿|父亲|母亲|爸爸|妈妈|同事|朋友|孩子|邻居|[他她])(?:名字)?叫({_FAMILY}(?:(?![去来了着过的])[\u4e00-\u9fff]){{1,2}})"
    r"(?=[，。,.；;！!？?、\s（(）)]|$)"
)
_ZH_SAID: Final = re.compile(
    rf"(?:我叫|名叫|叫做|我的名字是|本人|我是|你好，我是)({_FAMILY}{_GIVEN}?)(?=[，。,.；;！!？?、\s）)]|$|的?(?:电话|手机|身份证|住址|地址|邮箱))"
)
_WEEKDAYS_WORDS: Final = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August "
    "September October November December The This That There Here Street Road Avenue "
)
_WEEKDAYS: Final = frozenset(_WEEKDAYS_WORDS.split())


def names(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of what are probably persons' names; may overlap."""
    if any("\u4e00" <= one <= "\u9fff" for one in text):
        for pattern in (_ZH_LABEL, _ZH_TOLD, _ZH_TITLE, _ZH_CALLED, _ZH_KIN, _ZH_SAID):
            for match in pattern.finditer(text):
                name, before = match.group(1), text[max(0, match.start(1) - 1) : match.start(1)]
                if name == "和" and "\u4e00" <= before <= "\u9fff":
                    continue  # 学生和老师
                if name not in _NOT_NAMES and name[:2] not in _NOT_NAMES:
                    yield match.span(1)
    if not text.isascii() and not any("A" <= one <= "Z" for one in text):
        return
    for pattern in (_TITLE, _SAID):
        for match in pattern.finditer(text):
            if match.group(1).split()[0] not in _WEEKDAYS:
                yield match.span(1)
    for match in _GREETED.finditer(text):
        if match.group(1) in _FIRST:
            yield (match.start(1), match.end(2) if match.group(2) and match.group(2) not in _WEEKDAYS else match.end(1))
    for match in _PAIR.finditer(text):
        if match.group(1) in _FIRST and match.group(2).split()[-1] not in _WEEKDAYS:
            yield match.span()
